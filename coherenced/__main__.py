"""`python -m coherenced` is `coherenced`."""

from coherenced.cli.start import main

if __name__ == "__main__":
    main()
