"""The system calls that a program in the sandbox may make, as a filter for the kernel (seccomp, classic BPF).

Everything else gets "operation not permitted": new processes and threads, other programs, sockets, signals, tracing,
mounts, links, folders, rights, clocks, devices' controls. `fcntl` may not name a receiver of signals, limits can be
changed for the process itself alone (and only lowered), and a signal can only be sent to itself.
Numbers are from the kernel's tables for x86-64 and arm64; on any other machine there is no filter and so no
sandbox.
"""

from __future__ import annotations

import platform

_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF: load a word, jump if equal, return
_ALLOW, _KILL, _NOT_PERMITTED = 0x7FFF0000, 0x80000000, 0x00050000 | 1
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_AT, _SECOND_AT = 0, 4, 16, 24
SELF = 0xFFFFFFFF
"""Stands for the number of the process, which puts it in."""

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
# name: (x86-64, arm64); -1 where a machine has no such call
_ALLOWED = {
    "read": (0, 63), "write": (1, 64), "open": (2, -1), "close": (3, 57), "stat": (4, -1), "fstat": (5, 80),
    "lstat": (6, -1), "poll": (7, -1), "lseek": (8, 62), "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215),
    "brk": (12, 214), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "pread64": (17, 67), "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66), "access": (21, -1),
    "pipe": (22, -1), "select": (23, -1), "sched_yield": (24, 124), "mremap": (25, 216), "msync": (26, 227),
    "mincore": (27, 232), "madvise": (28, 233), "dup": (32, 23), "dup2": (33, -1), "nanosleep": (35, 101),
    "getpid": (39, 172), "exit": (60, 93), "uname": (63, 160), "fsync": (74, 82), "fdatasync": (75, 83),
    "ftruncate": (77, 46), "getdents": (78, -1), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50),
    "rename": (82, -1), "unlink": (87, -1), "readlink": (89, -1), "umask": (95, 166), "gettimeofday": (96, 169),
    "getrlimit": (97, -1), "getrusage": (98, 165), "sysinfo": (99, 179), "times": (100, 153), "getuid": (102, 174),
    "getgid": (104, 176), "geteuid": (107, 175), "getegid": (108, 177), "getppid": (110, 173),
    "sigaltstack": (131, 132), "gettid": (186, 178), "time": (201, -1), "futex": (202, 98),
    "sched_getaffinity": (204, 123), "getdents64": (217, 61), "set_tid_address": (218, 96),
    "restart_syscall": (219, 128), "fadvise64": (221, 223), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115), "exit_group": (231, 94), "openat": (257, 56), "newfstatat": (262, 79),
    "unlinkat": (263, 35), "renameat": (264, 38), "readlinkat": (267, 78), "faccessat": (269, 48),
    "pselect6": (270, 72), "ppoll": (271, 73), "set_robust_list": (273, 99), "dup3": (292, 24), "pipe2": (293, 59),
    "getcpu": (309, 168), "renameat2": (316, 276), "getrandom": (318, 278), "statx": (332, 291), "rseq": (334, 293),
    "faccessat2": (439, 439),
}  # fmt: skip
# name: (numbers, where the argument stands, the values that it may have)
_RESTRICTED = {
    # duplicate, flags of the descriptor, flags of the file; not: owner, signal, lease, seal
    "fcntl": ((72, 25), _SECOND_AT, (0, 1, 2, 3, 4, 1030)),
    "prlimit64": ((302, 261), _FIRST_AT, (0,)),
    "tgkill": ((234, 131), _FIRST_AT, (SELF,)),
}


def system_call_filter(machine: str | None = None) -> list[list[int]] | None:
    """The filter as (code, jump if true, jump if false, value), or None where this machine is not known.

    Args:
        machine: as `platform.machine` names it; None = this one.
    """
    known = _ARCHITECTURES.get(platform.machine() if machine is None else machine)
    if known is None:
        return None
    architecture, column = known
    program = [[_LOAD, 0, 0, _ARCHITECTURE_AT], [_EQUAL, 1, 0, architecture], [_RETURN, 0, 0, _KILL]]
    program.append([_LOAD, 0, 0, _NUMBER_AT])
    for numbers in _ALLOWED.values():
        if numbers[column] >= 0:
            program += [[_EQUAL, 0, 1, numbers[column]], [_RETURN, 0, 0, _ALLOW]]
    for numbers, place, values in _RESTRICTED.values():
        program += [[_EQUAL, 0, 2 + 2 * len(values), numbers[column]], [_LOAD, 0, 0, place]]
        for value in values:
            program += [[_EQUAL, 0, 1, value], [_RETURN, 0, 0, _ALLOW]]
        program.append([_RETURN, 0, 0, _NOT_PERMITTED])
    return [*program, [_RETURN, 0, 0, _NOT_PERMITTED]]
