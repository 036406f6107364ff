#!/bin/sh
# A Python program as test, with Debian's interpreter.
exec /usr/bin/python3 -B "$@"
