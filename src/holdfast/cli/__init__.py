"""The command line: arguments and what each command does; everything else is done below."""
