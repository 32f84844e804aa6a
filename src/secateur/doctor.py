"""What this installation has and what it could have: versions, processor, memory, devices, extras."""

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

import psutil
import torch
from packaging.requirements import Requirement
from pydantic import Field

from secateur.evaluation.precision import multiplies_bfloat16
from secateur.schema import Record

PACKAGE = "secateur"
LIBRARIES = ("torch", "transformers", "safetensors", "tokenizers", "accelerate", "lightgbm", "numpy", "scikit-learn")
# What each extra is for; tests hold the names to those that the package declares.
ADDS = {
    "recover": "secateur recover, prune --recover lora: LoRA and the choice of its settings",
    "qlora": "prune --recover qlora: LoRA on 4-bit weights",
    "hub": "data sets from the hub as text",
    "gguf": "--target gguf: files for llama.cpp",
    "quantize": "secateur export --quantize int8",
    "ray": "--executor ray: candidates measured on a cluster",
    "tasks": "secateur evaluate --tasks: lm-eval's benchmarks",
    "tensorboard": "--track tensorboard",
    "mlflow": "--track mlflow",
    "trackio": "--track trackio",
    "wandb": "--track wandb",
    "browser": "tests of the report in a browser",
    "compare": "cross-checks against other people's implementations",
    "dev": "what development needs",
}


class Extra(Record):
    """Packages that are not needed, and what they add."""

    name: str
    adds: str
    missing: tuple[str, ...] = Field(description="packages of it that are not installed")

    @property
    def install(self) -> str:
        return f"pip install '{PACKAGE}[{self.name}]'"


class Device(Record):
    """A processor that can compute a model."""

    name: str
    memory_bytes: int = Field(description="in all; of a CPU, of the machine")
    free_bytes: int
    bfloat16: bool = Field(description="multiplies bfloat16 fast, so that candidates are measured in it by default")


class Diagnosis(Record):
    """What `secateur doctor` found."""

    secateur: str
    python: str
    system: str
    versions: dict[str, str]
    outdated: dict[str, str] = Field(description="library -> requirement that the installed version does not meet")
    cores: int = Field(description="that this process may use")
    threads: int = Field(description="that torch uses")
    devices: tuple[Device, ...] = Field(description="the CPU first")
    disk_free_bytes: int = Field(description="of the current folder")
    extras: tuple[Extra, ...]

    @property
    def healthy(self) -> bool:
        return not self.outdated


def diagnose() -> Diagnosis:
    """Look at the installation and the machine; changes nothing, and asks no network."""
    memory = psutil.virtual_memory()
    cpu = Device(
        name=f"CPU, {processor_name()}",
        memory_bytes=memory.total,
        free_bytes=memory.available,
        bfloat16=multiplies_bfloat16(torch.device("cpu")),
    )
    return Diagnosis(
        secateur=version(PACKAGE),
        python=platform.python_version(),
        system=platform.platform(terse=True),
        versions={name: version(name) for name in LIBRARIES},
        outdated=outdated(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        devices=(cpu, *gpus()),
        disk_free_bytes=shutil.disk_usage(Path.cwd()).free,
        extras=tuple(Extra(name=name, adds=ADDS[name], missing=missing(name)) for name in declared_extras()),
    )


def gpus() -> list[Device]:
    """List CUDA devices; empty where there is none."""
    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(index)
        found.append(
            Device(
                name=f"cuda:{index}, {torch.cuda.get_device_name(index)}",
                memory_bytes=total,
                free_bytes=free,
                bfloat16=multiplies_bfloat16(torch.device("cuda", index)),
            )
        )
    return found


def processor_name() -> str:
    """Name the processor as Linux does, or as Python does elsewhere."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(errors="replace").splitlines() if information.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def declared_extras() -> list[str]:
    return [str(name) for name in metadata(PACKAGE).get_all("Provides-Extra") or []]


def outdated() -> dict[str, str]:
    """Give required libraries that are missing or of another version than Secateur was made for."""
    found = {}
    for text in requires(PACKAGE) or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            installed = installed_version(requirement.name)
            if installed is None or not requirement.specifier.contains(installed, prereleases=True):
                found[requirement.name] = f"{requirement.specifier}, got {installed or 'none'}"
    return found


def missing(extra: str) -> tuple[str, ...]:
    """Give the packages of an extra that are not installed."""
    wanted = [Requirement(text) for text in requires(PACKAGE) or []]
    # Markers of packages that are always needed hold with any extra.
    own = [each for each in wanted if each.marker is not None and not each.marker.evaluate({"extra": ""})]
    of_extra = [each for each in own if each.marker is not None and each.marker.evaluate({"extra": extra})]
    return tuple(each.name for each in of_extra if installed_version(each.name) is None)


def installed_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
