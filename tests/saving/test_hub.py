"""A model on the hub, which is a fake here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from saved_models import built, method_of, outputs, reduced
from transformers import ViTConfig, ViTForImageClassification

import vitrim


class Hub:
    """Repositories in a folder; takes calls only as huggingface_hub's own HfApi would."""

    def __init__(self, folder):
        self.folder, self.created = folder, {}

    def api(self, **_):
        return self

    def create_repo(self, repo_id, *, private=None, exist_ok=False):
        assert exist_ok or repo_id not in self.created
        self.created[repo_id] = private

    def upload_folder(self, *, repo_id, folder_path, revision, commit_message, allow_patterns):
        assert repo_id in self.created
        assert commit_message
        target = self.folder / repo_id
        target.mkdir(parents=True, exist_ok=True)
        for path in Path(folder_path).iterdir():
            assert path.name in allow_patterns
            (target / path.name).write_bytes(path.read_bytes())
        return type("Commit", (), {"commit_url": f"https://hub/{repo_id}/commit/1"})()

    def download(self, repo_id, *, revision, allow_patterns, local_files_only):
        if revision not in (None, "main"):
            raise RuntimeError(f"no revision {revision}\nlong story")
        assert {path.name for path in (self.folder / repo_id).iterdir()} <= set(allow_patterns)
        return str(self.folder / repo_id)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    import huggingface_hub

    real = huggingface_hub.HfApi
    fake = Hub(tmp_path / "hub")
    for name in ("create_repo", "upload_folder"):
        monkeypatch.setattr(fake, name, checked(getattr(real, name), getattr(fake, name)))
    monkeypatch.setattr("huggingface_hub.HfApi", fake.api)
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", checked(huggingface_hub.snapshot_download, fake.download, unbound=False)
    )
    for place in ("loading.from_pretrained", "saving.hub"):
        monkeypatch.setattr(f"vitrim.{place}.check_answer", lambda: None)
    return fake


def checked(real, fake, unbound=True):
    """The fake, called only with what the real function would take."""
    import inspect

    def call(*args, **kwargs):
        inspect.signature(real).bind(*((None, *args) if unbound else args), **kwargs)
        return fake(*args, **kwargs)

    return call


def test_a_pushed_model_comes_back_from_the_hub(hub):
    model = reduced("metr", keep_rate=0.5)
    about = {"metrics": {"top-1": 71.25}, "notes": "## Mine\nabout it", "license": "cc-by-4.0", "recipe": {"epochs": 3}}
    address = vitrim.push_to_hub(model, "owner/small-vit", private=True, **about)
    assert address == "https://hub/owner/small-vit/commit/1"
    assert hub.created == {"owner/small-vit": True}
    pushed = hub.folder / "owner" / "small-vit"
    assert sorted(path.name for path in pushed.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert 'from_pretrained("owner/small-vit")' in (pushed / "README.md").read_text()
    again = vitrim.from_pretrained("owner/small-vit", revision="main")
    assert torch.equal(outputs(again), outputs(model))


@pytest.mark.usefixtures("hub")
def test_a_model_of_transformers_is_pushed_with_all_that_it_needs():
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=8)).eval()
    vitrim.push_to_hub(vitrim.reduce_tokens(model, "metr"), "owner/theirs")
    again = vitrim.from_pretrained("owner/theirs")
    assert method_of(again) == method_of(model)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_what_the_hub_refuses_is_told_in_one_line(hub, monkeypatch):
    with pytest.raises(OSError, match=r"v9.*hub.*: no revision v9\.$"):
        vitrim.from_pretrained("owner/small-vit", revision="v9")
    with pytest.raises(ValueError, match=r"owner/name.*'small-vit'"):
        vitrim.push_to_hub(built(), "small-vit")
    with pytest.raises(ValueError, match=r"name.*repository"):
        vitrim.push_to_hub(built(), "owner/../x")

    def forbidden(*_, **__):
        raise RuntimeError("403 Forbidden\nlong story")

    monkeypatch.setattr(hub, "create_repo", forbidden)
    with pytest.raises(OSError, match=r"owner/small-vit: 403 Forbidden\.$"):
        vitrim.push_to_hub(built(), "owner/small-vit")


def test_without_network_a_repository_is_looked_for_in_the_cache_alone(tmp_path, monkeypatch, saved):
    class Offline:
        def head(self, *_, **__):
            raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.get_session", Offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(OSError, match=r"no answer from https://\S+.*cache\.$"):
        vitrim.from_pretrained("owner/small-vit")
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *_, local_files_only, **__: str(saved) if local_files_only else None
    )
    assert method_of(vitrim.from_pretrained("owner/small-vit")).exits is not None
    with pytest.raises(OSError, match=r"owner/small-vit: no answer from"):
        vitrim.push_to_hub(built(), "owner/small-vit")
