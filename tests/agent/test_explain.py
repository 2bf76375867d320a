"""What the agent says of failures: texts as the libraries write them."""

from __future__ import annotations

import signal

import pytest

from shoal.agent.agent import explain

TRACE = """Epoch 3:  40%|####      | 4/10\rEpoch 3: 50%
Traceback (most recent call last):
  File "/home/ada/train.py", line 40, in <module>
    main()
  File "/home/ada/train.py", line 12, in main
    loss.backward()
  File "/venv/lib/python3.11/site-packages/torch/_tensor.py", line 581, in backward
    torch.autograd.backward(
{error}
"""
RANKS = """[rank1]: Traceback (most recent call last):
[rank1]:   File "/home/ada/train.py", line 9, in step
[rank1]:     model(x)
[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 96.00 MiB. GPU 1 has a total capacity of 9.50 GiB
[rank0]: Traceback (most recent call last):
[rank0]:   File "/home/ada/train.py", line 11, in reduce
[rank0]:     dist.all_reduce(t)
[rank0]: RuntimeError: NCCL communicator was aborted on rank 0.
Traceback (most recent call last):
  File "/venv/bin/torchrun", line 8, in <module>
    sys.exit(main())
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
train.py FAILED
"""


def ask(log: str, code: int | None = 1, signum: int | None = None, oom: bool = False) -> tuple[str, str, list[str]]:
    found = explain(code, signum, log.encode(), oom, ["train.py"])
    return found["class"], found["message"], found["lines"]


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        ("ValueError: bad lr", "user", "The command failed with ValueError: bad lr (train.py, line 12, in main)."),
        ("KeyboardInterrupt", "user", "The command ended with exit code 1: KeyboardInterrupt."),
        ("torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB "
         "(GPU 0; 23.69 GiB total capacity; 2 GiB)",
         "oom-gpu", "Out of GPU memory: could not get another 20.00 MiB on a GPU of 23.69 GiB."),
        ("RuntimeError: CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
         "oom-gpu", "Out of GPU memory."),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
         "oom-gpu", "Out of GPU memory."),
        ("RuntimeError: MPS backend out of memory (MPS allocated: 9.05 GB)", "oom-gpu", "Out of GPU memory."),
        ("jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 85899345920 bytes.",
         "oom-gpu", "Out of GPU memory."),
        ("RuntimeError: [enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory",
         "oom-host", "Out of memory: "),
        ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 7.45 GiB for an array with shape (1000000000,)",
         "oom-host", "Unable to allocate 7.45 GiB for an array"),
        ("RuntimeError: DataLoader worker (pid 123) is killed by signal: Killed. ", "oom-host", "Out of memory"),
        ("RuntimeError: DataLoader worker (pid 9) is killed by signal: Bus error. It is possible that dataloader's workers are "
         "out of shared memory. Please try to raise your shared memory limit.", "oom-host", "resources.shm"),
        ("RuntimeError: unable to write to file </torch_1234_5>: No space left on device (28)", "oom-host", "resources.shm"),
        ("OSError: [Errno 28] No space left on device: '/store/out/x'", "store", "The disk failed the task: OSError"),
        ("OSError: [Errno 122] Disk quota exceeded", "store", "quota"),
        ("RuntimeError: CUDA error: uncorrectable ECC error encountered", "node-lost", "The GPU or its driver failed"),
        ("RuntimeError: CUDA error: device-side assert triggered", "user", "device-side assert"),
        ("RuntimeError: CUDA error: unspecified launch failure", "user", "unspecified launch failure"),
        ("grpc.RpcError: RESOURCE_EXHAUSTED: quota of requests", "user", "RESOURCE_EXHAUSTED"),
    ],
)  # fmt: skip
def test_tracebacks(error: str, kind: str, sentence: str) -> None:
    found, message, _ = ask(TRACE.format(error=error))
    assert found == kind
    assert sentence in message


def test_lines_are_the_users_frame_and_the_error() -> None:
    assert ask(TRACE.format(error="ValueError: bad lr"))[2] == [
        'File "/home/ada/train.py", line 12, in main',
        "    loss.backward()",
        "ValueError: bad lr",
    ]


def test_the_last_of_chained_tracebacks_counts() -> None:
    first = TRACE.format(error="KeyError: 'lr'")
    log = first + "\nDuring handling of the above exception, another exception occurred:\n\n"
    assert "ValueError: no lr" in ask(log + TRACE.format(error="ValueError: no lr"))[1]


def test_a_failure_that_was_handled_does_not_count() -> None:
    log = TRACE.format(error="torch.OutOfMemoryError: CUDA out of memory.") + "trying a smaller batch\n"
    assert ask(log + TRACE.format(error="ValueError: bad lr"))[0] == "user"


def test_of_many_ranks_the_cause_is_told() -> None:
    kind, message, lines = ask(RANKS)
    assert kind == "oom-gpu"
    assert message == "Out of GPU memory: could not get another 96.00 MiB on a GPU of 9.50 GiB."
    assert lines[0] == 'File "/home/ada/train.py", line 9, in step'


def test_without_a_traceback() -> None:
    assert (
        ask("terminate called after throwing an instance of 'std::bad_alloc'\n", None, signal.SIGABRT)[0] == "oom-host"
    )
    syntax = "  File \"train.py\", line 3\n    foo(\n       ^\nSyntaxError: '(' was never closed\n"
    assert ask(syntax)[1] == "The command ended with exit code 1: SyntaxError: '(' was never closed."
    assert (
        ask("loaded\nerror: no such dataset\nbye\n", 4)[1]
        == "The command ended with exit code 4: error: no such dataset."
    )
    assert ask("", 4)[1] == "The command ended with exit code 4 and wrote nothing."


@pytest.mark.parametrize(
    ("log", "code", "signum"),
    [
        ("", None, signal.SIGKILL),
        ("Killed\n", 137, None),
        (TRACE.format(error="RuntimeError: worker died, exitcode: -9"), 1, None),
    ],
)
def test_the_kernels_oom_killer(log: str, code: int | None, signum: int | None) -> None:
    assert ask(log, code, signum, oom=True)[0] == "oom-host"
    kind, message, _ = ask(log, code, signum)
    assert kind == "user"
    assert "memory" in message or "worker died" in message


def test_an_oom_kill_elsewhere_is_not_ours() -> None:
    assert ask(TRACE.format(error="ValueError: bad lr"), oom=True)[0] == "user"


@pytest.mark.parametrize("signum", [signal.SIGSEGV, signal.SIGTERM, signal.SIGUSR2, 64])
def test_signals_in_words(signum: int) -> None:
    name = "64" if signum == 64 else signal.Signals(signum).name
    assert name in ask("", None, signum)[1] or "SIGRTMAX" in ask("", None, signum)[1]


def test_a_log_of_nonsense() -> None:
    for log in (
        b"\xff" * 5000,
        b"Traceback (most recent call last):",
        b"\r" * 99,
        b"Traceback (most recent call last):\n\n\nx",
    ):
        assert explain(1, None, log, False, ["x"])["class"] == "user"
