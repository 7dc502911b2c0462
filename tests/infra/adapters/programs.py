"""Small programs that stand before or in place of a tool."""

import sys

PYTHON = f"#!/bin/sh\n'''exec' '{sys.executable}' \"$0\" \"$@\"\n' '''\n"
"""First lines of a program in Python: a kernel's `#!` line takes no path with a space in it, sh does."""
