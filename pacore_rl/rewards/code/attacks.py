"""Programs that try to get out of a sandbox, or to cheat in it. The probe runs them all before a backend is trusted.

Each is Python that prints ``LEAK`` and what it got where it succeeds; an exception means that it was refused. It finds
the names of ``PRELUDE``, among them ``HOST``: where our side keeps what it must not reach. All are bounded and leave
nothing behind even where nothing stops them, so that the same set can be run without a sandbox.
"""

# ruff: noqa: E501 - one attack a line, to be read as a table
# fmt: off
from __future__ import annotations

from dataclasses import dataclass

PRELUDE = r"""
import ctypes, errno, mmap, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {"x86_64": 0, "aarch64": 1}[os.uname().machine]
def call(numbers, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(numbers[NUMBERS]), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
def tried(*errors):  # a call that reached the kernel's own checks got past the filter
    class Tried:
        def __enter__(self): return self
        def __exit__(self, kind, error, trace):
            if isinstance(error, OSError) and error.errno in errors: print("LEAK", error)
    return Tried()
TEST = int(sys.stdin.readline() or 1)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    name: str
    source: str
    num_tests: int = 1
    """With 2, the second test sees what the first one left behind."""
    leaks_without_sandbox: bool = True
    """False: a fork per test, resource limits or another user's rights already stop it."""
    ends_at_time_limit: bool = False


def _escape(name: str, source: str, num_tests: int = 1) -> Attack:
    return Attack(name=name, source=source, num_tests=num_tests)


def _contained(name: str, source: str, num_tests: int = 1) -> Attack:
    return Attack(name=name, source=source, num_tests=num_tests, leaks_without_sandbox=False)


def _endless(name: str, source: str) -> Attack:
    return Attack(name=name, source=source, leaks_without_sandbox=False, ends_at_time_limit=True)


_NETWORK = (
    _escape("connect to a server", "import socket\ns = socket.create_connection(('127.0.0.1', HOST['port']), 2)\ns.send(b'x'); print('LEAK')"),
    _escape("udp socket", "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', HOST['port'])); print('LEAK')"),
    _escape("listen", "import socket\ns = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); print('LEAK')"),
    _escape("unix socket of the host", "import socket\ns = socket.socket(socket.AF_UNIX); s.connect(HOST['unix']); print('LEAK')"),
    _escape("abstract socket of the host", "import socket\ns = socket.socket(socket.AF_UNIX); s.connect('\\0' + HOST['abstract']); print('LEAK')"),
    _escape("netlink socket", "import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); print('LEAK')"),
)
_FILES = (
    _escape("/etc/passwd", "print('LEAK', open('/etc/passwd').read(9))"),
    _escape("a file of the host", "print(open(HOST['secret']).read())"),
    _escape("a symbolic link to the host", "os.chdir(HOST['folder'])\nos.symlink(HOST['secret'], 'link%d' % os.getpid())\nprint('LEAK', open('link%d' % os.getpid()).read())"),
    _escape("a link that the host left behind", "print(open(HOST['link']).read())"),
    _escape("up and out of the working folder", "print(open('../' * 20 + HOST['secret'].lstrip('/')).read())"),
    _escape("list the host's folders", "print('LEAK', os.listdir(HOST['folder']), os.listdir('/etc'))"),
    _escape("another submission's files", "print(open(HOST['neighbour']).read())"),
    _escape("write beside the host's files", "open(HOST['folder'] + '/written', 'w').write('x'); print('LEAK')"),
    _contained("write into the working folder", "open('written-%d' % os.getpid(), 'w'); os.unlink('written-%d' % os.getpid()); print('LEAK')"),
    _contained("poison the interpreter", "open(os.__file__, 'r+'); print('LEAK')"),
    _escape("write to /dev/shm", "open('/dev/shm/pacore-%d' % os.getpid(), 'w'); os.unlink('/dev/shm/pacore-%d' % os.getpid()); print('LEAK')"),
    _escape("/proc of the runner", "print('LEAK', open('/proc/%d/status' % os.getppid()).read(20))"),
    _escape("environment in /proc", "print(open('/proc/%d/environ' % HOST['pid'], 'rb').read())"),
    _escape("list processes", "print('LEAK', [p for p in os.listdir('/proc') if p.isdigit()][:5])"),
    _escape("own memory by /proc", "open('/proc/self/mem', 'rb'); print('LEAK')"),
    _escape("devices", "open('/dev/zero'); print('LEAK')"),
    _contained("environment", "print(dict(os.environ))"),
    _contained("inherited descriptors", "for number in range(3, 1024):\n    try: os.fstat(number); print('LEAK', number)\n    except OSError: pass"),
    _escape("state between tests in a file", "path = os.path.dirname(HOST['folder']) + '/state-of-tests'\nif TEST == 1: open(path, 'w').write('x')\nelse: print('LEAK', open(path).read()); os.unlink(path)", 2),
    _contained("state between tests in the interpreter", "import collections\nif TEST == 1: collections.kept = 1\nelif hasattr(collections, 'kept'): print('LEAK')", 2),
    _contained("state between tests in standard input", "if TEST == 1: os.lseek(0, 0, 0); os.write(0, b'kept kept kept')\nelif 'kept' in sys.stdin.read(): print('LEAK')", 2),
    _escape("state between tests in shared memory", "key = 0x50414352\nif TEST == 1: call((29, 194), key, 64, 0o1600)\nelse: i = call((29, 194), key, 0, 0); call((31, 195), i, 0, 0); print('LEAK')", 2),
    _escape("message queue", "i = call((68, 186), 0x50414352, 0o1600); call((71, 187), i, 0, 0); print('LEAK')"),
    _contained("frames and objects of the grader", "import gc\nframe = sys._getframe()\nfound = []\nwhile frame:\n    found += [str(v) for v in [*frame.f_locals.values(), *frame.f_globals.values()]]; frame = frame.f_back\nfound += [str(o) for o in gc.get_objects() if isinstance(o, (dict, list, tuple)) and len(o) < 999][:20000]\nmark = 'EXPEC' + 'TED-'\nprint([t[t.index(mark):][:60] for t in found if mark in t])"),
)
_PROCESSES = (
    _escape("signal the runner", "os.kill(os.getppid(), 0); print('LEAK')"),
    _escape("signal our side", "os.kill(HOST['pid'], 0); print('LEAK')"),
    _escape("signal everybody", "os.kill(-1, 0); print('LEAK')"),
    _escape("signal the process group", "os.killpg(0, 0); print('LEAK')"),
    _escape("signal the runner's thread", "call((234, 131), os.getppid(), os.getppid(), 0); print('LEAK')"),
    _escape("signal by a queue", "import struct\ncall((129, 138), HOST['pid'], 0, struct.pack('iii', 0, 0, -1) + bytes(116)); print('LEAK')"),
    _escape("signals owned by somebody else", "import fcntl\na, b = os.pipe()\nfcntl.fcntl(a, 8, HOST['pid']); print('LEAK')"),
    _escape("signal by a descriptor", "d = call((434, 434), os.getppid(), 0); call((424, 424), d, 0, 0, 0); print('LEAK')"),
    _escape("trace the runner", "call((101, 117), 0x4206, os.getppid(), 0, 0); print('LEAK')"),
    _escape("read the runner's memory", "with tried(errno.EFAULT): call((310, 270), os.getppid(), ctypes.create_string_buffer(16), 1, ctypes.create_string_buffer(16), 1, 0); print('LEAK')"),
    _escape("lower the runner's limits", "call((302, 261), os.getppid(), 7, 0, ctypes.create_string_buffer(16)); print('LEAK')"),
    _escape("priority of others", "call((141, 140), 0, os.getppid(), 0); print('LEAK')"),
    _escape("processor of others", "call((203, 122), os.getppid(), 8, ctypes.create_string_buffer(b'\\xff' * 8)); print('LEAK')"),
    _escape("outlive the parent", "call((157, 167), 1, 0, 0, 0, 0); print('LEAK')"),
    _escape("leave the session", "pid = os.fork()\nif pid: os.waitpid(pid, 0)\nelse: os.setsid(); os.write(1, b'LEAK'); os._exit(0)"),
    _escape("fork bomb", "n = 0\nfor _ in range(20):\n    if os.fork() == 0: time.sleep(0.5); os._exit(0)\n    n += 1\nprint('LEAK', n)"),
    _escape("background process", "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: os.closerange(0, 9); time.sleep(2)\n    os._exit(0)\nprint('LEAK')"),
    _escape("shell", "import subprocess\nprint('LEAK', subprocess.run(['/bin/sh', '-c', 'echo x'], capture_output=True))"),
    _escape("spawn", "os.posix_spawn(sys.executable, [sys.executable, '-c', 'pass'], {}); print('LEAK')"),
    _escape("execute a program", "os.execv(sys.executable, [sys.executable, '-I', '-S', '-c', 'print(\"LEAK\")'])"),
    _escape("execute from memory", "d = os.memfd_create('x')\nos.write(d, open(sys.executable, 'rb').read())\nos.execve(d, ['x', '-I', '-S', '-c', 'print(\"LEAK\")'], {'PYTHONHOME': sys.prefix, 'LD_LIBRARY_PATH': sys.prefix + '/lib'})"),
    _escape("many-process memory bomb", "n = 0\nfor _ in range(6):\n    if os.fork() == 0: x = b'x' * (100 << 20); time.sleep(0.5); os._exit(0)\n    n += 1\nprint('LEAK', n)"),
    _contained("thread bomb", "import threading\nthreading.stack_size(65536)\nend = threading.Event()\nn = 0\ntry:\n    while n < 4000: threading.Thread(target=end.wait, daemon=True).start(); n += 1\n    print('LEAK', n, flush=True)\nexcept (RuntimeError, MemoryError): print(n, flush=True)\nend.set()\nos._exit(0)"),
)
_KERNEL = (
    _escape("namespace of users", "call((272, 97), 0x10000000); print('LEAK')"),
    _escape("clone into namespaces", "pid = call((56, 220), 0x10000000 | 17, 0, 0, 0, 0)\nif pid == 0: os._exit(0)\nos.waitpid(pid, 0); print('LEAK')"),
    _escape("clone3", "with tried(errno.EINVAL, errno.EFAULT): call((435, 435), 0, 0)"),
    _escape("join a namespace", "with tried(errno.EBADF, errno.EINVAL): call((308, 268), -1, 0)"),
    _escape("mount", "with tried(errno.EFAULT, errno.ENOENT, errno.ENODEV): call((165, 40), b'none', b'/nowhere', b'tmpfs', 0, 0); print('LEAK')"),
    _contained("new mounts", "with tried(errno.ENODEV): call((430, 430), b'pacore', 0)"),
    _escape("io_uring", "with tried(errno.EFAULT, errno.EINVAL): call((425, 425), 1, 0)"),
    _escape("kernel keys", "call((250, 219), 0, -3, 1); print('LEAK')"),
    _escape("bpf", "with tried(errno.EINVAL, errno.EFAULT): call((321, 280), 9999, 0, 0)"),
    _escape("performance counters", "with tried(errno.EFAULT, errno.EINVAL): call((298, 241), 0, 0, -1, -1, 0)"),
    _escape("page faults in user space", "os.close(call((323, 282), 1)); print('LEAK')"),
    _contained("become root", "with tried(errno.EINVAL): call((117, 147), -2, -2, -2); print('LEAK')"),
    _escape("personality", "call((135, 92), 0xFFFFFFFF); print('LEAK')"),
    _escape("watch the host's files", "d = call((294, 26), 0); call((254, 27), d, HOST['folder'].encode(), 0x100); print('LEAK')"),
    _escape("open by handle", "with tried(errno.EFAULT, errno.EBADF, errno.EINVAL): call((304, 265), -1, 0, 0)"),
    _contained("type into the terminal", "d = os.open('/dev/tty', os.O_RDWR); call((16, 29), d, 0x5412, b'x'); print('LEAK')"),
    _escape("a filter of its own", "with tried(errno.EFAULT, errno.EINVAL): call((317, 277), 1, 0, 0)"),
    _escape("system calls of 32 bits", "code = b'\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3'\nassert NUMBERS == 0\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(code)\nf = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\nprint('LEAK', f())" ),
    _contained("system calls of x32", "with tried(errno.EINVAL, errno.EFAULT): call((0x40000000 + 512, 0x40000000), 0, 0, 0); print('LEAK')"),
)
_LIMITS = (
    _contained("memory bomb", "try: x = b'x' * (HOST['memory_mib'] << 20); print('LEAK', len(x))\nexcept MemoryError: print('refused')"),
    _contained("memory by mapping", "try: m = mmap.mmap(-1, HOST['memory_mib'] << 20); print('LEAK')\nexcept (OSError, MemoryError): print('refused')"),
    _contained("raise its own limits", "import resource\nfor kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):\n    before = resource.getrlimit(kind)\n    try: resource.setrlimit(kind, (1 << 40, 1 << 40))\n    except (OSError, ValueError): pass\n    if resource.getrlimit(kind) != before: print('LEAK', kind)"),
    _endless("endless loop", "while True: pass"),
    _endless("loop that ignores signals", "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass"),
    _endless("sleep", "time.sleep(3600)"),
    _contained("flood of output", "chunk = b'x' * (1 << 20)\nfor _ in range(HOST['output_mib'] + 1): os.write(1, chunk)\nprint('LEAK')"),
    _contained("flood of errors", "chunk = b'x' * (1 << 20)\nfor _ in range(HOST['output_mib'] + 1): os.write(2, chunk)\nos.write(1, b'LEAK')"),
    _contained("file of 8 GB", "os.ftruncate(1, 8 << 30); print('LEAK')"),
)

ATTACKS: tuple[Attack, ...] = (*_NETWORK, *_FILES, *_PROCESSES, *_KERNEL, *_LIMITS)
