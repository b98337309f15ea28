"""Runs a command whose calls of some ioctls do nothing, and tell it that they did all.

    unsynced.py NUMBER[,NUMBER...] COMMAND [ARGUMENT...]

For x86_64; the structures are those of linux/filter.h and linux/seccomp.h.
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

calls = [int(word, 16) for word in sys.argv[1].split(",")]
program = [(LOAD, 0, 0, NUMBER), (IS_EQUAL, 0, len(calls) + 1, IOCTL), (LOAD, 0, 0, SECOND)]
program += [(IS_EQUAL, len(calls) - i, 0, call) for i, call in enumerate(calls)]
program += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, FAIL_WITH_0)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_void_p(ctypes.addressof(filter)), 0, 0):
    sys.exit(os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[2], sys.argv[2:])
