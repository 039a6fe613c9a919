"""The command line: one file a group of commands, each loaded only when it is called.

`main` knows the commands by name and turns every error into one line and an exit
code; `options` holds the flags that commands share, `output` how things are printed.
"""
