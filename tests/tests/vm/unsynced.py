"""Runs a command, some of whose ioctls and system calls do nothing and tell it that they did all.

    unsynced.py NUMBER[,NUMBER...] COMMAND [ARGUMENT...]

A number with 0x is that of an ioctl. For x86_64; the structures are those of linux/filter.h
and linux/seccomp.h.
"""

import ctypes
import os
import struct
import sys

LOAD, IS_EQUAL, RETURN = 0x20, 0x15, 0x06
NUMBER, SECOND = 0, 24
ALLOW, FAIL_WITH_0 = 0x7FFF0000, 0x00050000
IOCTL = 16
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2

words = sys.argv[1].split(",")
ioctls = [int(word, 16) for word in words if word.startswith("0x")]
calls = [int(word) for word in words if not word.startswith("0x")]
# A jump is over so many steps; the last one fails with 0.
last = len(calls) + len(ioctls) + 4
program = [(LOAD, 0, 0, NUMBER)]
program += [(IS_EQUAL, last - i - 2, 0, call) for i, call in enumerate(calls)]
program += [(IS_EQUAL, 0, len(ioctls) + 1, IOCTL), (LOAD, 0, 0, SECOND)]
program += [(IS_EQUAL, len(ioctls) - i, 0, ioctl) for i, ioctl in enumerate(ioctls)]
program += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, FAIL_WITH_0)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_void_p(ctypes.addressof(filter)), 0, 0):
    sys.exit(os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[2], sys.argv[2:])
