#!/usr/bin/env python3
"""Runs generated programs against their tests: HumanEval+, MBPP+ (metric "code").

    ./rollout generate humaneval_plus.jsonl -model FOLDER -n 16 -max_new_tokens 512 -count 164 -out samples.jsonl
    data/benchmarks/run_code.py humaneval_plus.jsonl samples.jsonl [-o verdicts.jsonl] [-seconds 10] [-megabytes 1024]

Every program runs in a process of its own: in new user, network, mount, process and IPC namespaces, so without any
network; all file systems read-only but for an empty 64 MB folder that goes with it; with limits on CPU time, wall
time, memory, file size, open files and processes, and an empty environment. Where the kernel does not grant these
namespaces nothing is run. Prints Pass@k for k = 1, 2, 4 ... n; exit 0 whatever the programs do.
"""
import argparse
import ctypes
import json
import math
import os
import pathlib
import resource
import secrets
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (0x20000, 0x8000000, 0x10000000, 0x20000000,
                                                                       0x40000000)
MS_REC, MS_PRIVATE, MS_NOSUID, MS_NODEV = 0x4000, 0x40000, 2, 4
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
REFUSED = 97  # exit code of a sandbox that could not be made


# ----------------------------------------------------------------------------------------------------------------
# inside: makes the sandbox around itself, then becomes the program

def refuse(what):
    error = ctypes.get_errno()
    print(f"sandbox: {what}: {os.strerror(error)}", file=sys.stderr)
    os._exit(REFUSED)


def isolate(libc):
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC) != 0:
        refuse("no new namespaces (user, network, mount, process)")
    for path, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{path}", "w", encoding="ascii") as file:
            file.write(text)


def close_files(libc, folder):
    if libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) != 0:
        refuse("cannot make mounts private")
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY, 0, 0, 0)
    if libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, ctypes.sizeof(attributes)) != 0:
        refuse("cannot make the file systems read-only")
    if libc.mount(b"tmpfs", folder.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, b"size=64m,mode=700") != 0:
        refuse("cannot mount the program's folder")
    os.chdir(folder)


def limit(seconds, megabytes):
    for what, value in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, megabytes << 20),
                        (resource.RLIMIT_FSIZE, 16 << 20), (resource.RLIMIT_NOFILE, 64), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(what, (value, value))
    # Counted per user over the whole machine: room for what the user runs already, and a few more.
    running = sum(1 for name in os.listdir("/proc") if name.isdigit())
    resource.setrlimit(resource.RLIMIT_NPROC, (running + 64, running + 64))


def inside(folder, seconds, megabytes):
    program = sys.stdin.buffer.read()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
    isolate(libc)
    child = os.fork()  # the first process of the new process namespace: with it all others end
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    close_files(libc, folder)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    with open("program.py", "wb") as file:
        file.write(program)
    limit(int(seconds), int(megabytes))
    os.execve(sys.executable, [sys.executable, "-I", "-B", "program.py"], {"PATH": "/usr/bin:/bin", "HOME": folder})


# ----------------------------------------------------------------------------------------------------------------
# outside

def run_program(program, seconds, megabytes):
    """(passed, reason). A program passes by reaching its end: it then says a word it was not told before."""
    word = secrets.token_hex(16)
    program += f"\n__import__('os').write(2, b'\\n{word}\\n')\n"
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as errors:  # a file has a size limit
        process = subprocess.Popen([sys.executable, __file__, "--inside", folder, str(seconds), str(megabytes)],
                                   stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors,
                                   start_new_session=True, env={"PATH": "/usr/bin:/bin"})
        try:
            process.communicate(program.encode("utf-8", "replace"), timeout=2 * seconds + 5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return False, "time"
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - 4096))
        last = errors.read().decode("utf-8", "replace").strip().splitlines()[-1:]
    if process.returncode == REFUSED and last and last[0].startswith("sandbox:"):
        sys.exit(f"{last[0]}\nNothing was run: generated code needs namespaces (kernel 5.12, user namespaces allowed).")
    if process.returncode == 0 and last == [word]:
        return True, "passed"
    return False, "ended early" if process.returncode == 0 else last[0][:200] if last else f"exit {process.returncode}"


def cut(text, stops):
    return text[:min([text.find(s) for s in stops if s in text], default=len(text))]


def verdict(problem, sample, seconds, megabytes):
    answer = cut(sample["response"], problem.get("stop", []))
    passed, reason = run_program(problem["prompt"] + answer + "\n" + problem["test"], seconds, megabytes)
    return {"id": problem["id"], "sample": sample.get("sample", 0), "right": passed, "reason": reason}


def pass_at(n, c, k):
    return 1.0 if n - c < k else 1 - math.prod((n - c - i) / (n - i) for i in range(k))


def read_lines(path):
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        # splitlines() cuts at U+2028 and U+0085 too, which JSON has inside of strings.
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    except OSError as error:
        sys.exit(f"{path}: {error.strerror}; expected problems of convert.py, and samples of ./rollout generate -out")
    except ValueError as error:
        sys.exit(f"{path}: expected a JSON object a line: {error}")


def main():
    if sys.argv[1:2] == ["--inside"]:
        inside(*sys.argv[2:5])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems")
    parser.add_argument("samples", help="lines with id and response, as ./rollout generate -out writes them")
    parser.add_argument("-o", "-out", dest="out")
    parser.add_argument("-seconds", type=int, default=10, help="of CPU time; twice that and 5 s of wall time")
    parser.add_argument("-megabytes", type=int, default=1024, help="of address space")
    parser.add_argument("-threads", type=int, default=os.cpu_count())
    a = parser.parse_args()
    problems = {p["id"]: p for p in read_lines(a.problems) if p.get("metric") == "code"}
    samples = read_lines(a.samples)
    if not samples:
        sys.exit(f"{a.samples}: no sample in it")
    unknown = [s["id"] for s in samples if s["id"] not in problems]
    if not problems or unknown:
        sys.exit(f"{a.samples}: no problem of metric \"code\" for {unknown[0] if unknown else 'anything'} in {a.problems}")
    with ThreadPoolExecutor(a.threads) as pool:
        verdicts = list(pool.map(lambda s: verdict(problems[s["id"]], s, a.seconds, a.megabytes), samples))
    if a.out:
        pathlib.Path(a.out).write_text("".join(json.dumps(v) + "\n" for v in verdicts), encoding="utf-8")
    by_problem = {}
    for v in verdicts:
        by_problem.setdefault(v["id"], []).append(v["right"])
    n = min(map(len, by_problem.values()))
    ks = sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})
    print(f"{len(by_problem)} problems, {len(verdicts)} programs, {sum(v['right'] for v in verdicts)} pass their tests")
    for k in ks:
        print(f"Pass@{k} {sum(pass_at(len(r), sum(r), k) for r in by_problem.values()) / len(by_problem):.4f}")


if __name__ == "__main__":
    main()
