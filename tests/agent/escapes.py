# ruff: noqa: E501
"""Programs that try to get out of the sandbox, or to harm the machine. Each prints ESCAPED where it succeeds.

``{secret}`` is a file outside, ``{outside}`` a path beside it that does not exist yet; on ``{tcp}``, ``{udp}``, ``{unix}`` and
``{abstract}`` the test listens; ``{host}`` is its process.
"""

SYSCALL = "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\ndef call(*a):\n    value = libc.syscall(*a)\n    if value < 0: raise OSError(ctypes.get_errno(), 'refused')\n    return value\n"

FILES = {
    "read a file": "open({secret!r}).read()",
    "read through a descriptor of a folder": "import os; os.open({secret!r}[1:], os.O_RDONLY, dir_fd=os.open('/', os.O_RDONLY))",
    "read by going up": "import os; open('../' * 12 + {secret!r}[1:]).read()",
    "read through a symbolic link": "import os; os.symlink({secret!r}, 'link'); open('link').read()",
    "read through a hard link": "import os; os.link({secret!r}, 'hard'); open('hard').read()",
    "read by moving it in": "import os; os.rename({secret!r}, 'mine'); open('mine').read()",
    "list a folder": "import os; os.listdir(os.path.dirname({secret!r}))",
    "read the users": "open('/etc/passwd').read()",
    "read through its own root": "open('/proc/self/root' + {secret!r}).read()",
    "write a file": "open({outside!r}, 'w').write('x')",
    "write by moving one out": "import os; open('a', 'w').write('x'); os.rename('a', {outside!r})",
    "change a file": "open({secret!r}, 'a').write('x')",
    "empty a file": "import os; os.truncate({secret!r}, 0)",
    "empty a file while reading": "import os; os.open({secret!r}, os.O_RDONLY | os.O_TRUNC)",
    "empty a file that may be read": "import os; os.open(os.__file__, os.O_RDONLY | os.O_TRUNC)",
    "change the standard library": "import os; open(os.__file__, 'a').write('x')",
    "remove a file": "import os; os.unlink({secret!r})",
    "change rights": "import os; os.chmod({secret!r}, 0o777)",
    "change times": "import os; os.utime({secret!r}, (0, 0))",
    "change the owner": "import os; os.chown({secret!r}, 1, 1)",
    "make a folder": "import os; os.mkdir({outside!r})",
    "write to the temporary folder": "open('/tmp/agent-forge-escaped', 'w').write('x')",
    "write to shared memory": "open('/dev/shm/agent-forge-escaped', 'w').write('x')",
    "open a device": "open('/dev/mem', 'rb').read(1)",
    "open the disk": "import os; [open(p, 'rb').read(1) for p in ('/dev/vda', '/dev/sda', '/dev/nvme0n1')]",
    "open the terminal": "open('/dev/tty', 'w').write('x')",
    "make a device": "import os; os.mknod('null', 0o20666, os.makedev(1, 3))",
    "make a pipe for others": "import os; os.mkfifo('pipe')",
}
NETWORK = {
    "connect by TCP": "import socket; socket.create_connection(('127.0.0.1', {tcp}), 1)",
    "send by UDP": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {udp}))",
    "connect to a socket of the machine": "import socket; socket.socket(socket.AF_UNIX).connect({unix!r})",
    "connect to an abstract socket": "import socket; socket.socket(socket.AF_UNIX).connect({abstract!r})",
    "listen": "import socket; socket.create_server(('0.0.0.0', 0))",
    "listen to packets": "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3)",
    "ask the kernel by netlink": "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "resolve a name": "import socket; socket.getaddrinfo('example.org', 80)",
    "a pair of sockets": "import socket; socket.socketpair()",
}
PROCESSES = {
    "fork": "import os; os.fork()",
    "fork bomb": "import os\nwhile True: os.fork()",
    "become a daemon": "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: open({outside!r}, 'w').write('x')",
    "leave the group": "import os; os.setsid(); print('x')",
    "thread": "import threading; threading.Thread(target=print).start()",
    "thread bomb": "import _thread\nwhile True: _thread.start_new_thread(print, ())",
    "run a shell": "import subprocess; subprocess.run(['/bin/sh', '-c', 'id'], check=True)",
    "run a shell by system": "import os; assert os.system('id') == 0, 'refused'",
    "spawn": "import os; os.posix_spawn('/bin/sh', ['sh', '-c', 'id'], {{}})",
    "a pool of processes": "import multiprocessing; multiprocessing.Pool(2)",
    "become another program": "import os; os.execv('/bin/sh', ['sh', '-c', 'id'])",
    "a program that has its owner's rights": "import os; os.execv('/bin/su', ['su', '-c', 'id'])",
    "fork by number": SYSCALL + "call(57)",
    "clone by number": SYSCALL + "call(56, 0x11, 0, 0, 0, 0)",
    "a program in memory": SYSCALL + "call(319, b'x', 0)",
    "signal the host": "import os; os.kill({host}, 9)",
    "signal its parent": "import os; os.kill(os.getppid(), 9)",
    "signal everybody": "import os; os.kill(-1, 9)",
    "signal its group": "import os; os.killpg(0, 9)",
    "signal by a descriptor": "import signal, os; signal.pidfd_send_signal(os.pidfd_open({host}), 9)",
    "signal by owning a pipe": "import fcntl, os; r, w = os.pipe(); fcntl.fcntl(r, fcntl.F_SETOWN, {host})",
    "signal a thread of the host": SYSCALL + "call(234, {host}, {host}, 9)",
    "trace the host": SYSCALL + "call(101, 16, {host}, 0, 0)",
    "read the memory of the host": SYSCALL + "call(310, {host}, 0, 0, 0, 0, 0)",
    "read the memory of the host by file": "open('/proc/{host}/mem', 'rb').read(1)",
    "read the environment of the host": "print(open('/proc/{host}/environ').read())",
    "read the environment of its parent": "import os; print(open(f'/proc/{{os.getppid()}}/environ').read())",
    "read its own environment": "import os; os.environ['AGENT_FORGE_SECRET']",
    "list processes": "import os; [each for each in os.listdir('/proc')]",
    "use descriptors it was left": "import os\nfound = []\nfor n in range(3, 1024):\n    try: os.fstat(n); found.append(n)\n    except OSError: pass\nassert found, 'none'",
}
RIGHTS = {
    "become root": "import os; os.setuid(0)",
    "become somebody": "import os; os.setresuid(1, 1, 1)",
    "another group": "import os; os.setgroups([0])",
    "another root": "import os; os.chroot('.')",
    "mount": SYSCALL + "call(165, b'none', b'.', b'tmpfs', 0, 0)",
    "new namespaces": SYSCALL + "call(272, 0x10020000)",
    "enter a namespace": SYSCALL + "call(308, 0, 0)",
    "load a module": SYSCALL + "call(313, 0, b'', 0)",
    "program the kernel": SYSCALL + "call(321, 0, 0, 0)",
    "rings of requests": SYSCALL + "call(425, 8, bytes(120))",
    "performance counters": SYSCALL + "call(298, bytes(128), 0, -1, -1, 0)",
    "keys": SYSCALL + "call(250, 0, -3, 1)",
    "page faults": SYSCALL + "call(323, 0)",
    "raise a limit": "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
    "limits of the host": "import resource; resource.prlimit({host}, resource.RLIMIT_CPU, (1, 1))",
    "lift the filter": SYSCALL + "call(317, 1, 0, 0)",
    "give itself rights": SYSCALL + "call(126, bytes(8), b'\\xff' * 24)",
    "type into the terminal": "import fcntl; fcntl.ioctl(0, 0x5412, b'x')",
    "set the clock": "import time; time.clock_settime(time.CLOCK_REALTIME, 0)",
    "name the machine": "import socket; socket.sethostname('x')",
    "shared memory": SYSCALL + "call(29, 7, 4096, 0o1666)",
}
IMPORTS = {
    "libraries of the host": "import agent_forge",
    "torch": "import torch",
    "a path to the host": "import sys; sys.path.insert(0, {package!r}); import agent_forge",
    "import past the importer": "from importlib.machinery import SourceFileLoader as L; L('m', {secret!r}).load_module()",
    "load a library": "import ctypes; ctypes.CDLL({secret!r})",
    "builtins by their classes": "[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == '_wrap_close'][0].__init__.__globals__['popen']('id').read()",
}
EXHAUSTION = {
    "memory bomb": (
        "x = []\nwhile True: x.append(bytearray(1 << 24))",
        "more than 256 MiB of memory",
    ),
    "memory at once": (
        "x = bytearray(1 << 40)",
        "more than 256 MiB of memory",
    ),
    "memory by mapping": (
        "import mmap; x = mmap.mmap(-1, 1 << 40)",
        "more than 256 MiB of memory",
    ),
    "memory by numbers": (
        "x = 1 << (1 << 40)",
        "more than 256 MiB of memory",
    ),
    "endless loop": (
        "while True: pass",
        "processor time|took longer",
    ),
    "endless loop that hears no signal": (
        "import signal\nfor n in (signal.SIGXCPU, signal.SIGTERM, signal.SIGINT): signal.signal(n, signal.SIG_IGN)\nwhile True: pass",
        "processor time|took longer",
    ),
    "endless loop that catches all": (
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "processor time|took longer",
    ),
    "one long operation": (
        "x = 7 ** (1 << 26)",
        "processor time|took longer",
    ),
    "a slow pattern": (
        "import re; re.match(r'(a+)+$', 'a' * 60 + 'b')",
        "processor time|took longer",
    ),
    "sleep": (
        "import time; time.sleep(60)",
        "took longer than 1.5 s",
    ),
    "sleep with closed output": (
        "import os, time; os.close(1); os.close(2); time.sleep(60)",
        "took longer than 1.5 s",
    ),
    "wait for input": (
        "import time\nwhile not input(): time.sleep(1)",
        "EOFError",
    ),
    "much output": (
        "while True: print('x' * 1000)",
        "printed more than 1000 bytes",
    ),
    "many errors": (
        "import sys\nwhile True: sys.stderr.write('x' * 1000)",
        "printed more than 1000 bytes",
    ),
    "a large file": (
        "open('f', 'wb').write(bytes(64 << 20))",
        "File too large",
    ),
    "a large file by a hole": (
        "f = open('f', 'wb'); f.truncate(1 << 40)",
        "File too large",
    ),
    "many files": (
        "n = 0\nwhile True:\n    open(str(n), 'w').close(); n += 1",
        "made more than 8 files",
    ),
    "much in files": (
        "n = 0\nwhile True:\n    open(str(n), 'wb').write(bytes(1 << 19)); n += 1",
        "wrote more than 4194304 bytes|more than 8 files",
    ),
    "many descriptors": (
        "import os\nwhile True: os.pipe()",
        "Too many open files",
    ),
    "deep recursion": (
        "def f(): f()\nf()",
        "RecursionError",
    ),
    "a crash": (
        "import ctypes; ctypes.string_at(0)",
        "crashed with signal",
    ),
    "a deep expression": (
        "eval('(' * 100000)",
        "SyntaxError|MemoryError|memory",
    ),
}
"""Name → (program, what the model is told, as a pattern)."""
OLD_CALLS = (
    "import ctypes, mmap\ncode = b'\\xb8\\x02\\x00\\x00\\x00\\xcd\\x80\\xc3'  # fork as a 32-bit program asks for it\n"
    "page = mmap.mmap(-1, 4096, prot=7); page.write(code)\n"
    "at = ctypes.addressof(ctypes.c_char.from_buffer(page))\n"
    "assert ctypes.CFUNCTYPE(ctypes.c_int)(at)() > 0, 'refused'"
)
ESCAPES = FILES | NETWORK | PROCESSES | RIGHTS | IMPORTS
X86_ONLY = {name for name, code in (PROCESSES | RIGHTS).items() if code.startswith(SYSCALL)}
