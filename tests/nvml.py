"""A small library with NVML's interface, for machines without a GPU: what asks it makes real calls."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from needs import require

__all__ = ["stand_in"]

# Three devices; the first does not tell its use, that of the others is STAND_IN_GPU_USE percent.
NVML = r"""
#include <stdlib.h>
#include <string.h>
typedef struct { unsigned int gpu, memory; } Use;
typedef struct { unsigned long long total, free, used; } Memory;
static int devices[3] = {0, 1, 2};
static unsigned int use(void) { const char *s = getenv("STAND_IN_GPU_USE"); return s ? atoi(s) : 71; }
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned int *n) { *n = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int i, void **h) { if (i > 2) return 2; *h = &devices[i]; return 0; }
int nvmlDeviceGetHandleByUUID(const char *u, void **h) { if (strcmp(u, "GPU-abc")) return 6; *h = &devices[2]; return 0; }
int nvmlDeviceGetIndex(void *h, unsigned int *i) { *i = *(int *)h; return 0; }
int nvmlDeviceGetName(void *h, char *s, unsigned int n) { strncpy(s, "NVIDIA Pond 9000", n); return 0; }
int nvmlDeviceGetUtilizationRates(void *h, Use *u) { if (*(int *)h == 0) return 3; u->gpu = use(); u->memory = 5; return 0; }
int nvmlDeviceGetMemoryInfo(void *h, Memory *m) { m->total = 24ULL << 30; m->used = 9000000000ULL; m->free = 1; return 0; }
"""


def stand_in(folder: Path) -> Path:
    """Compile it into a folder, for the loader to find it there by ``LD_LIBRARY_PATH``; return the folder."""
    compiler = shutil.which("cc")
    require("cc", compiler and os.path.isdir("/proc"), "this machine has no C compiler or is not Linux")
    assert compiler is not None
    (folder / "nvml.c").write_text(NVML)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", folder / "nvml.c"], check=True)
    return folder
