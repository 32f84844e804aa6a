"""What an installation has, seen against what it declares."""

import torch

from secateur import doctor
from secateur.doctor import ADDS, declared_extras, diagnose


def test_every_declared_extra_says_what_it_adds() -> None:
    assert set(declared_extras()) == set(ADDS)


def test_the_installation_that_tests_run_in_is_healthy() -> None:
    found = diagnose()
    assert found.healthy, found.outdated
    assert found.versions["torch"] == torch.__version__
    assert found.devices[0].name.startswith("CPU")
    assert 0 < found.devices[0].free_bytes <= found.devices[0].memory_bytes
    assert not next(extra for extra in found.extras if extra.name == "dev").missing


def test_a_library_of_another_version_is_named_with_what_was_expected(monkeypatch) -> None:
    installed = doctor.installed_version
    monkeypatch.setattr(doctor, "installed_version", lambda name: "2.12.0" if name == "torch" else installed(name))
    found = diagnose()
    assert not found.healthy
    assert found.outdated == {"torch": "==2.13.0, got 2.12.0"}


def test_packages_of_an_extra_that_are_not_there_are_named(monkeypatch) -> None:
    installed = doctor.installed_version
    monkeypatch.setattr(doctor, "installed_version", lambda name: None if name == "gguf" else installed(name))
    extra = next(extra for extra in diagnose().extras if extra.name == "gguf")
    assert extra.missing == ("gguf",)
    assert extra.install == "pip install 'secateur[gguf]'"
