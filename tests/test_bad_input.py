"""Every user error ends with one line on standard error and exit code 2."""

from __future__ import annotations

import pytest
import timm
from safetensors.torch import save_file

import fresh
from small_job import IMG_SIZE, MODEL, arguments, save_checkpoint, small_job
from vitrim.cli import app


@pytest.fixture
def job(tmp_path):
    return small_job(tmp_path)


@pytest.fixture
def refused(capsys):
    """Runs a command line that must be refused; returns the error's line without its beginning."""

    def run(*args: str) -> str:
        with pytest.raises(SystemExit) as end:
            app(list(args))
        out, err = capsys.readouterr()
        assert end.value.code == 2
        assert out == ""
        lines = err.splitlines()
        assert len(lines) == 1, err
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")

    return run


def names(said: str, *words: str) -> bool:
    """Whether a message contains all of these words."""
    return all(word in said for word in words)


def changed(job, **options: str) -> list[str]:
    """The job's command line with some options replaced."""
    return arguments(job) + [part for name, value in options.items() for part in ("--" + name.replace("_", "-"), value)]


def without_rates(job, *options: str) -> list[str]:
    """The job's command line with other options in place of its keep rates."""
    command = arguments(job)
    at = command.index("--keep-rates")
    return [*command[:at], *command[at + 2 :], *options]


def test_through_a_process_of_its_own(job):
    done = fresh.run(["-c", "from vitrim.cli import app; app()", *changed(job, keep_rates="1.5")])
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert names(line, "--keep-rates", "at most 1", "'1.5'")
    assert done.stdout == ""


def test_no_such_model(job, refused):
    assert names(refused(*changed(job, model="test_vitt")), "no model", "'test_vitt'", "test_vit,")


def test_an_architecture_that_cannot_be_read(job, refused, tmp_path):
    weights = tmp_path / "resnet.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    command = [part for part in changed(job, checkpoint=str(weights)) if part not in ("--img-size", str(IMG_SIZE))]
    command[command.index(MODEL)] = "test_resnet"
    assert names(refused(*command), "test_resnet", "ResNet", "VisionTransformer")


def test_a_checkpoint_of_another_model(job, refused, tmp_path):
    other = save_checkpoint(tmp_path / "other.safetensors", "test_vit2")
    assert names(refused(*changed(job, checkpoint=str(other))), "other.safetensors", "checkpoint", "test_vit")


def test_a_checkpoint_that_is_missing_or_none(job, refused, tmp_path):
    assert names(refused(*changed(job, checkpoint=str(tmp_path / "absent.safetensors"))), "no checkpoint", "absent")
    assert names(refused(*changed(job, checkpoint=__file__)), ".safetensors", ".pth")
    for name in ("broken.safetensors", "broken.pth"):
        (tmp_path / name).write_bytes(b"broken")
        assert names(refused(*changed(job, checkpoint=str(tmp_path / name))), name, "not a")


def test_no_network_for_pretrained_weights(job, refused, monkeypatch):
    def unreachable(*_):
        raise OSError("no answer")

    monkeypatch.setattr("vitrim.loading.build.check_hub", unreachable)
    command = arguments(job)
    at = command.index("--checkpoint")
    assert "--checkpoint" in refused(*command[:at], *command[at + 2 :])


def test_a_data_folder_that_is_missing_empty_or_a_file(job, refused, tmp_path):
    assert "no folder" in refused(*changed(job, data=str(tmp_path / "absent")))
    (tmp_path / "empty").mkdir()
    assert "no images" in refused(*changed(job, data=str(tmp_path / "empty")))
    assert "is a file" in refused(*changed(job, data=__file__))


def test_a_model_of_ones_own_needs_data(job, refused):
    command = arguments(job)
    at = command.index("--data")
    assert "--data FOLDER" in refused(*command[:at], *command[at + 2 :])


@pytest.mark.parametrize(
    ("line", "told"),
    [("0.png,1000", "'1000'"), ("0.png,cat", "'cat'"), ("absent.png,1", "no file absent.png")],
)
def test_a_table_with_a_wrong_class_or_a_missing_file(job, refused, line, told):
    (job.data / "labels.csv").write_text(f"file,label\n{line}\n")
    assert told in refused(*arguments(job))
    assert not job.output.exists()


@pytest.mark.parametrize("content", [b"no image", b"", None])
def test_a_file_that_is_no_whole_image(job, capsys, content):
    file = job.data / "2.png"
    file.write_bytes(file.read_bytes()[:1000] if content is None else content)
    with pytest.raises(SystemExit) as end:
        app(arguments(job))
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert names(line, "2.png", "not an image")


@pytest.mark.parametrize(
    ("rates", "told"),
    [
        ("0", "'0'"),
        ("1.5", "'1.5'"),
        ("0.7,-1", "'-1'"),
        ("half", "'half'"),
        ("nan", "'nan'"),
        ("", "empty"),
    ],
)
def test_bad_keep_rates(job, refused, rates, told):
    assert names(refused(*changed(job, keep_rates=rates)), "--keep-rates", "above 0 and at most 1", told)


def test_bad_targets(job, refused):
    assert "test_vit" in refused(*without_rates(job, "--gmacs", "100"))
    assert names(refused(*changed(job, gmacs="0")), "--gmacs", "above 0", "'0'")


def test_an_unknown_method_lists_the_known_ones(job, refused):
    said = refused(*changed(job, methods="evitt"))
    assert names(said, "'evitt'", "attention_mass, beyond_attentive, ", "evit, ")
    assert names(refused(*changed(job, methods=",")), "--methods", "empty")


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        ("3,9", "blocks 0 to 5"),
        ("3,2", "increasing order"),
        ("2,2", "increasing order"),
        ("1.5", "whole numbers"),
    ],
)
def test_layers_out_of_range_or_unsorted(job, refused, layers, told):
    assert told in refused(*changed(job, methods="evit", layers=layers))


def test_r_too_large(job, refused):
    said = refused(*without_rates(job, "--methods", "tome", "--r", "9"))
    assert names(said, "tome", "r = 9", "block 0", "16 patches")
    assert names(refused(*changed(job, methods="evit", r="3")), "evit", "no r")


def test_a_method_that_needs_a_class_token_on_a_model_without_one(refused):
    model = ("--model", "vit_medium_patch16_gap_240", "--img-size", "64")
    assert "'received'" in refused("macs", *model, "--methods", "evit", "--scorer", "cls")


def test_an_output_that_belongs_to_something_else(job, refused, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("")
    assert "no results.json" in refused(*changed(job, output=str(tmp_path / "thesis")))
    assert "is a file" in refused(*changed(job, output=__file__))


def test_an_output_of_another_run(job, refused, capsys):
    with pytest.raises(SystemExit) as end:
        app(arguments(job))
    assert end.value.code == 0
    capsys.readouterr()
    assert names(refused(*changed(job, batch_size="2")), "another run", "batch size", "4", "2")


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("device", "tpu", "device 'tpu'"),
        ("dtype", "int3", "fp32, bf16, fp16"),
        ("batch_size", "0", "--batch-size"),
        ("rounds", "0", "--rounds"),
        ("limit", "0", "--limit"),
        ("img_size", "many", "--img-size"),
    ],
)
def test_settings_that_make_no_sense(job, refused, option, value, told):
    assert told in refused(*changed(job, **{option: value}))


def test_usage_errors_take_one_line_too(refused):
    assert "No such command 'compete'" in refused("compete")
    assert "No such option: --fast" in refused("compare", "--fast")
    assert "Missing option '--output'" in refused("compare")
    assert "without a --method" in refused("evaluate", "--keep-rate", "0.7")
    said = refused("evaluate", "--method", "evit", "--keep-rate", "0.7,0.5")
    assert names(said, "--keep-rate", "--gmacs", "--r", "--mass")


def test_debugging_shows_where_an_error_came_from(job, monkeypatch):
    monkeypatch.setenv("VITRIM_DEBUG", "1")
    with pytest.raises(ValueError, match=r"method.*'evitt'"):
        app(changed(job, methods="evitt"))
