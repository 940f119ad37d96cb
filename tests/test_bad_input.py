"""Whatever a user may get wrong ends with one line on standard error and exit code 2."""

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
    wanted = "wanted numbers above 0 and at most 1, separated by commas, not '1.5'"
    assert done.stderr == f"error: Invalid value for '--keep-rates': {wanted}.\n"
    assert done.stdout == ""


def test_no_such_model(job, refused):
    assert "no model is called 'test_vitt'; close names are test_vit" in refused(*changed(job, model="test_vitt"))


def test_an_architecture_that_cannot_be_read(job, refused, tmp_path):
    weights = tmp_path / "resnet.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    command = [part for part in changed(job, checkpoint=str(weights)) if part not in ("--img-size", str(IMG_SIZE))]
    command[command.index(MODEL)] = "test_resnet"
    assert "test_resnet is a ResNet: of timm's models, vitrim reads" in refused(*command)


def test_a_checkpoint_of_another_model(job, refused, tmp_path):
    other = save_checkpoint(tmp_path / "other.safetensors", "test_vit2")
    assert "other.safetensors is not a checkpoint of test_vit: " in refused(*changed(job, checkpoint=str(other)))


def test_a_checkpoint_that_is_missing_or_none(job, refused, tmp_path):
    assert "there is no checkpoint at" in refused(*changed(job, checkpoint=str(tmp_path / "absent.safetensors")))
    assert "wanted a .safetensors or a .pth file" in refused(*changed(job, checkpoint=__file__))
    for name in ("broken.safetensors", "broken.pth"):
        (tmp_path / name).write_bytes(b"broken")
        assert f"{name} is not a" in refused(*changed(job, checkpoint=str(tmp_path / name)))


def test_no_network_for_pretrained_weights(job, refused, monkeypatch):
    def unreachable(*_):
        raise OSError("no answer")

    monkeypatch.setattr("vitrim.loading.build.check_hub", unreachable)
    command = arguments(job)
    at = command.index("--checkpoint")
    assert "pass --checkpoint FILE" in refused(*command[:at], *command[at + 2 :])


def test_a_data_folder_that_is_missing_empty_or_a_file(job, refused, tmp_path):
    assert "there is no folder" in refused(*changed(job, data=str(tmp_path / "absent")))
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refused(*changed(job, data=str(tmp_path / "empty")))
    assert "is a file" in refused(*changed(job, data=__file__))


def test_a_model_of_ones_own_needs_data(job, refused):
    command = arguments(job)
    at = command.index("--data")
    assert "pass --data FOLDER" in refused(*command[:at], *command[at + 2 :])


@pytest.mark.parametrize(
    ("line", "told"),
    [("0.png,1000", "the label of 0.png is '1000'"), ("0.png,cat", "is 'cat'"), ("absent.png,1", "no file absent.png")],
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
    assert "2.png is not an image that can be read" in line


@pytest.mark.parametrize(
    ("rates", "told"),
    [
        ("0", "above 0 and at most 1, separated by commas, not '0'"),
        ("1.5", "above 0 and at most 1, separated by commas, not '1.5'"),
        ("0.7,-1", "above 0 and at most 1, separated by commas, not '-1'"),
        ("half", "--keep-rates': wanted numbers above 0 and at most 1, separated by commas, not 'half'"),
        ("nan", "not 'nan'"),
        ("", "it is empty"),
    ],
)
def test_bad_keep_rates(job, refused, rates, told):
    assert told in refused(*changed(job, keep_rates=rates))


def test_bad_targets(job, refused):
    assert "test_vit" in refused(*without_rates(job, "--gmacs", "100"))
    assert "above 0, separated by commas, not '0'" in refused(*changed(job, gmacs="0"))


def test_an_unknown_method_lists_the_known_ones(job, refused):
    said = refused(*changed(job, methods="evitt"))
    assert "no method is called 'evitt'; there are attention_mass, beyond_attentive, evit, " in said
    assert "--methods is empty" in refused(*changed(job, methods=","))


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        ("3,9", "do not fit a model with blocks 0 to 5"),
        ("3,2", "increasing order"),
        ("2,2", "increasing order"),
        ("1.5", "whole numbers"),
    ],
)
def test_layers_out_of_range_or_unsorted(job, refused, layers, told):
    assert told in refused(*changed(job, methods="evit", layers=layers))


def test_r_too_large(job, refused):
    assert "r = 9 in block 0 is too large: 16 patches arrive" in refused(
        *without_rates(job, "--methods", "tome", "--r", "9")
    )
    assert "evit has no r" in refused(*changed(job, methods="evit", r="3"))


def test_a_method_that_needs_a_class_token_on_a_model_without_one(refused):
    model = ("--model", "vit_medium_patch16_gap_240", "--img-size", "64")
    assert "choose scorer='received'" in refused("macs", *model, "--methods", "evit", "--scorer", "cls")


def test_an_output_that_belongs_to_something_else(job, refused, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("")
    assert "holds files, but no results.json" in refused(*changed(job, output=str(tmp_path / "thesis")))
    assert "is a file: name a folder" in refused(*changed(job, output=__file__))


def test_an_output_of_another_run(job, refused, capsys):
    with pytest.raises(SystemExit) as end:
        app(arguments(job))
    assert end.value.code == 0
    capsys.readouterr()
    assert "holds another run: its batch size is 4, and now it is 2" in refused(*changed(job, batch_size="2"))


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("device", "tpu", "device 'tpu' cannot be used"),
        ("dtype", "int3", "the dtype is one of fp32, bf16, fp16"),
        ("batch_size", "0", "--batch-size': wanted a whole number of at least 1"),
        ("rounds", "0", "--rounds': wanted a whole number of at least 1"),
        ("limit", "0", "--limit': wanted a whole number of at least 1"),
        ("img_size", "many", "--img-size"),
    ],
)
def test_settings_that_make_no_sense(job, refused, option, value, told):
    assert told in refused(*changed(job, **{option: value}))


def test_usage_errors_take_one_line_too(refused):
    assert "No such command 'compete'" in refused("compete")
    assert "No such option: --fast" in refused("compare", "--fast")
    assert "Missing option '--output'" in refused("compare")
    assert "without a --method there is no use for --keep-rate" in refused("evaluate", "--keep-rate", "0.7")
    said = refused("evaluate", "--method", "evit", "--keep-rate", "0.7,0.5")
    assert "one of --keep-rate, --gmacs, --r and --mass" in said


def test_debugging_shows_where_an_error_came_from(job, monkeypatch):
    monkeypatch.setenv("VITRIM_DEBUG", "1")
    with pytest.raises(ValueError, match="no method is called"):
        app(changed(job, methods="evitt"))
