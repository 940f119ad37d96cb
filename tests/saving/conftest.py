"""A saved model for every test, and the certainty that none asks the network."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest
from saved_models import reduced

import vitrim


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return vitrim.save_pretrained(reduced("metr", keep_rate=0.5), tmp_path_factory.mktemp("template") / "saved")


@pytest.fixture
def saved(template, tmp_path):
    """A folder with a model under METR over EViT."""
    return Path(shutil.copytree(template, tmp_path / "saved"))


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("snapshot_download", "hf_hub_download", "get_session"):
        monkeypatch.setattr(f"huggingface_hub.{name}", refuse)
