"""`python -m coherenced` is `coherenced`."""

from coherenced.cli.main import main

if __name__ == "__main__":
    main()
