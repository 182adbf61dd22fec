"""What people edit at the top of the script: one line is enough, for the copy, for --verify and for the next start."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.neptune_server.process import ServerProcess
from tests.support.comparison import Fields, copy_differences, expected_fields
from tests.support.planted import Planted, value
from tests.support.script import SCRIPT, Completed, environment, latest_log, latest_report
from tests.tools import torture
from tests.tools.torture import bare_registry, small_registry, sources

README = (SCRIPT.parent / "README.md").read_text("utf-8")


@pytest.fixture
def planted(server: ServerProcess) -> Iterator[Planted]:
    with small_registry(server) as registry:
        yield registry


def edited(place: Path, line: str, by: str) -> Path:
    """A copy of the script in which one line is another, or several."""
    text = SCRIPT.read_text("utf-8")
    assert text.count(f"\n    {line}\n") == 1, line
    script = place / "edited.py"
    script.write_text(text.replace(f"\n    {line}\n", f"\n    {by}\n"), "utf-8")
    return script


def run(script: Path, planted: Planted, *flags: str) -> Completed:
    """Run an edited script to its end."""
    folder, wanted = script.parent, ("--project", planted.project, "--workers", "2", *flags)
    status, output = played(script, wanted, folder, environment(planted.server), folder / "screen.txt")
    return Completed(status, output, latest_log(folder), latest_report(folder))


def played(
    script: Path, arguments: tuple[str, ...], folder: Path, settings: dict[str, str], screen: Path
) -> tuple[int, str]:
    """Run a script in a process that finds its modules imported, as `Play` does; its exit status and its output."""
    wanted = (script, arguments, str(folder), settings, str(screen), None)
    process = torture.PROCESSES.Process(target=perform, args=wanted, daemon=True)
    process.start()
    process.join(120)
    process.kill()
    process.join()
    return process.exitcode, screen.read_text("utf-8")


def perform(script: Path, *arguments: Any) -> None:
    """What the process does."""
    torture.SCRIPT = script
    torture.perform(*arguments)


def runs_of(planted: Planted) -> dict[str, Fields]:
    """The fields of the runs that are copies, by the ID of their source."""
    containers = planted.state()["containers"].values()
    runs = [each["attributes"] for each in containers if each["kind"] == "run" and not each["trashed"]]
    return {fields["old_sys/id"]["value"]: fields for fields in runs}


def differing(planted: Planted, change: Callable[[str, Fields], None]) -> list[Any]:
    """What differs in the runs from what is expected after a change of that; custom run IDs are not looked at."""
    state, found, runs = planted.state()["containers"], [], runs_of(planted)
    for source in sources(planted):
        expected = expected_fields(state[source]["attributes"], state[source]["kind"])
        change(source, expected)
        told = copy_differences(source, expected, runs.get(source, {}))
        found += [(source, path, words) for path, words in told if path != "sys/custom_run_id"]
    return found


def starts_well(script: Path, planted: Planted) -> None:
    """The second start, and a comparison in full, follow from the same edit."""
    again = run(script, planted)
    assert (again.status, "2 up to date, 0 to copy" in again.output) == (0, True), again.output
    verified = run(script, planted, "--verify")
    assert (verified.status, {row["status"] for row in verified.report}) == (0, {"verified"}), verified.output


PATH = "return path"


def test_a_namespace_is_renamed(planted: Planted, tmp_path: Path) -> None:
    by = 'return path.replace("metrics/", "validation/", 1) if path.startswith("metrics/") else path'
    script = edited(tmp_path, PATH, by)
    assert run(script, planted).status == 0

    def renamed(_: str, fields: Fields) -> None:
        fields["validation/loss"] = fields.pop("metrics/loss")

    assert differing(planted, renamed) == []
    starts_well(script, planted)


def test_a_namespace_is_left_out_and_listed(planted: Planted, tmp_path: Path) -> None:
    script = edited(tmp_path, PATH, 'return None if path.startswith("params/") else path')
    ended = run(script, planted)
    assert ended.status == 0

    def without(_: str, fields: Fields) -> None:
        for path in [path for path in fields if path.startswith("params/")]:
            del fields[path]

    assert differing(planted, without) == []
    model = sources(planted)[0]
    for told in (ended.output, ended.log, ended.row(model)["error"]):
        assert "params/depth" in told
    starts_well(script, planted)


def test_only_what_is_wanted_of_a_namespace_is_copied_and_nothing_goes_to_the_trash(
    planted: Planted, tmp_path: Path
) -> None:
    script = edited(tmp_path, PATH, 'return path if path.startswith("metrics/") else None')
    ended = run(script, planted, "--trash-models", "--yes")
    assert ended.status == 0, ended.output
    assert "0 objects can go to the trash" in ended.output
    assert not any(each["trashed"] for sys_id, each in planted.state()["containers"].items() if each["kind"] != "run")


def test_what_an_edit_takes_out_of_the_plan_itself_is_listed_too(planted: Planted, tmp_path: Path) -> None:
    script = edited(
        tmp_path,
        "            plan[target] = source_field",
        '            plan.update({} if path.startswith("params/") else {target: source_field})',
    )
    ended = run(script, planted, "--trash-models", "--yes")
    assert ended.status == 0, ended.output
    lacking = [sys_id for sys_id in sources(planted) if "left out: params/depth" in ended.row(sys_id)["error"]]
    assert lacking
    assert not any(planted.state()["containers"][sys_id]["trashed"] for sys_id in lacking)


def test_what_an_edit_takes_out_of_the_whole_plan_is_listed_too(planted: Planted, tmp_path: Path) -> None:
    less = '{path: one for path, one in self.plan.items() if not path.startswith("params/")}'
    planned = "    self.plan_fields()"
    ended = run(edited(tmp_path, planned, f"{planned}\n        self.plan = {less}"), planted)
    assert ended.status == 0, ended.output
    assert any("left out: params/depth" in ended.row(sys_id)["error"] for sys_id in sources(planted))


def test_what_an_edit_takes_out_of_copying_and_comparing_is_listed_too(planted: Planted, tmp_path: Path) -> None:
    copied = "        if planned.type in types and path not in self.outcome.failed"
    ended = run(edited(tmp_path, copied, f'{copied} and planned.type != "file"'), planted, "--trash-models", "--yes")
    assert ended.status == 0, ended.output
    lacking = [sys_id for sys_id in sources(planted) if "left out: weights" in ended.row(sys_id)["error"]]
    assert lacking
    assert not any(planted.state()["containers"][sys_id]["trashed"] for sys_id in lacking)


def test_a_model_stays_whose_versions_an_edit_leaves_out(planted: Planted, tmp_path: Path) -> None:
    wanted = "return not options.only or any(fnmatch.fnmatchcase(source.id, pattern) for pattern in options.only)"
    ended = run(edited(tmp_path, wanted, "return source.kind == MODEL"), planted, "--trash-models", "--yes")
    assert (ended.status, "0 objects can go to the trash" in ended.output) == (0, True), ended.output
    assert not any(each["trashed"] for sys_id, each in planted.state()["containers"].items() if each["kind"] != "run")


def test_runs_are_called_otherwise(planted: Planted, tmp_path: Path) -> None:
    script = edited(tmp_path, "return short(object_id)", 'return short(f"registry-{object_id}")')
    assert run(script, planted).status == 0
    assert differing(planted, lambda source, fields: None) == []
    found = {source: fields["sys/custom_run_id"]["value"] for source, fields in runs_of(planted).items()}
    assert found == {source: f"registry-{source}" for source in sources(planted)}
    starts_well(script, planted)
    assert "2 runs made by this script" in run(script, planted, "--undo", "--dry-run").output


TAGS = "return tags, [source.model_id]"


@pytest.mark.parametrize("tags", [["registry"], ["model", "registry"]])
def test_runs_are_tagged_otherwise(planted: Planted, tmp_path: Path, tags: list[str]) -> None:
    script = edited(tmp_path, TAGS, f'return {tags}, [source.model_id, "from the registry"]')
    assert run(script, planted).status == 0

    def tagged(source: str, fields: Fields) -> None:
        kind = "model" if source == sources(planted)[0] else "model_version"
        own = {*fields["sys/tags"]["value"]} - {kind}
        fields["sys/tags"] = value("stringSet", sorted({*own, *tags}))
        group_tags = {*fields["sys/group_tags"]["value"], "from the registry"}
        fields["sys/group_tags"] = value("stringSet", sorted(group_tags))

    assert differing(planted, tagged) == []
    starts_well(script, planted)


def test_fewer_objects_are_copied(planted: Planted, tmp_path: Path) -> None:
    line = "return not options.only or any(fnmatch.fnmatchcase(source.id, pattern) for pattern in options.only)"
    script = edited(tmp_path, line, "return source.kind == MODEL_VERSION")
    ended = run(script, planted)
    version = sources(planted)[1]
    assert (ended.status, {row["source ID"]: row["status"] for row in ended.report}) == (0, {version: "copied"})
    assert "1 up to date, 0 to copy" in run(script, planted).output


def test_the_log_goes_elsewhere(planted: Planted, tmp_path: Path) -> None:
    text = SCRIPT.read_text("utf-8")
    script = tmp_path / "edited.py"
    assert text.count("        filename=filename,\n") == 1
    script.write_text(text.replace("        filename=filename,\n", '        filename="elsewhere.log",\n'), "utf-8")
    ended = run(script, planted)
    assert (ended.status, "Log: elsewhere.log" in ended.output.splitlines()) == (0, True)
    assert ": copied, " in (tmp_path / "elsewhere.log").read_text("utf-8")


def test_the_log_goes_to_two_places_whole(planted: Planted, tmp_path: Path) -> None:
    """What was logged before the log was opened, too."""
    by = "handlers=[logging.StreamHandler(sys.stdout), logging.FileHandler(filename), logging.FileHandler('two.log')],"
    script = edited(tmp_path, "    filename=filename,", f"    {by}")
    text = script.read_text("utf-8").replace('        encoding="utf-8",\n        level=', "        level=")
    script.write_text(text, "utf-8")
    ended = run(script, planted)
    assert ended.status == 0, ended.output
    first = f"{planted.project}: 1 model, "
    assert first in ended.output
    assert all(first in log for log in (ended.log, (tmp_path / "two.log").read_text("utf-8")))


def test_a_log_of_everything_has_no_tokens(tmp_path: Path) -> None:
    """Access tokens are renewed at each request here, which the client's libraries log."""
    with ServerProcess("--token-ttl", "4") as server, bare_registry(server) as planted:
        planted.model({"depth": value("int", 1)})
        ended = run(edited(tmp_path, "    level=logging.INFO,", "    level=logging.DEBUG,"), planted)
        assert ended.status == 0, ended.output
    assert " DEBUG " in ended.log
    assert re.findall("eyJ|access_token|refresh_token=", ended.log) == []


def test_a_log_that_cannot_be_written_is_named(planted: Planted, tmp_path: Path) -> None:
    script = edited(tmp_path, "    filename=filename,", '    filename=f"nowhere/{filename}",')
    ended = run(script, planted)
    assert (ended.status, len(ended.output.strip().splitlines()[-1:])) == (2, 1)
    assert re.search(r"Cannot write the log to \S+/nowhere/models_migration_\S+\.log \(No such file", ended.output)


def test_the_log_goes_to_the_screen(planted: Planted, tmp_path: Path) -> None:
    script = edited(tmp_path, "    filename=filename,", "    stream=sys.stdout,")
    ended = run(script, planted)
    lines = [line for line in ended.output.splitlines() if line]
    assert ended.status == 0
    assert any(": copied, " in line for line in lines)
    assert sum(line.endswith(" to copy") for line in lines) == 1, "each line is there once"
    assert not any(line.startswith("Log:") for line in lines)
    assert not list(tmp_path.glob("*.log"))


# -- edits that go wrong --


@pytest.fixture
def staged(server: ServerProcess) -> Iterator[Planted]:
    with bare_registry(server) as registry:
        model = registry.model({"depth": value("int", 1)})
        registry.version(model, {"sys/stage": value("string", "production")})
        registry.version(model, {"sys/stage": value("string", "Production")})
        yield registry


@pytest.mark.parametrize("tags", [TAGS, "return [source.kind], [source.model_id]"], ids=["as it is", "without a stage"])
def test_a_stage_that_becomes_no_tag_stays_a_field(staged: Planted, tmp_path: Path, tags: str) -> None:
    script = edited(tmp_path, TAGS, tags)
    assert run(script, staged, "--stage-as-tag").status == 0
    runs = runs_of(staged)
    for source in sources(staged)[1:]:
        stage = staged.state()["containers"][source]["attributes"]["sys/stage"]["value"]
        told = [*runs[source]["sys/tags"]["value"], runs[source].get("old_sys/stage", {}).get("value")]
        assert stage in told


IDS = "return short(object_id)"


@pytest.mark.parametrize("line", ['return "all"', "pass", 'return short(object_id.rpartition("-")[0])', 'return ""'])
def test_custom_run_ids_that_are_none_or_not_unique_are_refused(staged: Planted, tmp_path: Path, line: str) -> None:
    ended = run(edited(tmp_path, IDS, line), staged)
    assert (ended.status, staged.runs()) == (2, {}), ended.output
    assert "custom_run_id() gives" in ended.output


@pytest.mark.parametrize(
    "line",
    [
        "return [], []",
        "return source.kind, source.model_id",
        "return [source.kind, source.model_id]",
        'return [fields["sys/id"].properties["value"]], []',
    ],
)
def test_tags_by_which_no_run_could_be_found_are_refused(staged: Planted, tmp_path: Path, line: str) -> None:
    ended = run(edited(tmp_path, TAGS, line), staged)
    assert (ended.status, staged.runs()) == (2, {})
    assert "tags_of() must return two lists" in ended.output


TRAINING = 'return path.replace("train/", "training/", 1)'


def test_fields_that_go_to_the_same_path_are_listed(small: Planted, tmp_path: Path) -> None:
    """Whichever is first by its path is copied, and the other is not."""
    model = sources(small)[0]
    small.put(model, {"training/depth": value("int", 2)})
    script = edited(tmp_path, PATH, TRAINING)
    ended = run(script, small)
    assert ended.status == 0, ended.output
    assert runs_of(small)[model]["training/depth"]["value"] == 1
    told = "skipped: training/depth (int: another field goes to training/depth in the run)"
    assert told in ended.row(model)["error"]
    again = run(script, small, "--verify")
    assert (again.status, {row["status"] for row in again.report}) == (0, {"verified"}), again.output


def test_fields_that_collide_as_namespaces_fail_by_name(small: Planted, tmp_path: Path) -> None:
    """A server cannot have both "a" and "a/b". So the run is not complete without them, unless they are left out."""
    model = sources(small)[0]
    small.put(model, {"training": value("int", 1), "old_sys": value("int", 2)})
    script = edited(tmp_path, PATH, TRAINING)
    ended = run(script, small)
    assert ended.status == 1
    assert all(f"{model}  {path}: " in ended.output for path in ("old_sys", "training")), ended.output
    assert "old_sys/verified" not in runs_of(small)[model]
    assert run(script, small, "--exclude", "training", "--exclude", "old_sys").status == 0


def test_a_tag_is_the_text_of_a_field_where_there_is_one(small: Planted, tmp_path: Path) -> None:
    model, version = sources(small)
    small.put(model, {"dataset": value("string", "2024")})
    by = 'return [source.kind, value_of(fields, "dataset")], [source.model_id]'
    script = edited(tmp_path, TAGS, by)
    assert run(script, small).status == 0
    tags = {source: fields["sys/tags"]["value"] for source, fields in runs_of(small).items()}
    assert tags == {model: ["2024", "model"], version: ["model_version"]}
    starts_well(script, small)


SYSTEM = 'return path if path in SAME_PATH else f"old_{path}"'


def test_the_systems_fields_go_elsewhere_and_the_runs_are_known_all_the_same(small: Planted, tmp_path: Path) -> None:
    """Of an object that is deleted and made again with its ID, the first one's copy is the only one that is left."""
    by = 'return path if path in SAME_PATH else path.replace("sys/", "registry/", 1)'
    script = edited(tmp_path, f"    {SYSTEM}", f"    {by}")
    assert run(script, small).status == 0

    def moved(_: str, fields: Fields) -> None:
        stay = ("old_sys/id", "old_sys/creation_time", "old_sys/verified")
        for path in [path for path in fields if path.startswith("old_sys/") and path not in stay]:
            fields[path.replace("old_sys/", "registry/", 1)] = fields.pop(path)

    assert differing(small, moved) == []
    starts_well(script, small)
    model = sources(small)[0]
    before = runs_of(small)[model]
    small.put(model, {"sys/creation_time": value("datetime", 86_400_000)})
    ended = run(script, small)
    assert (ended.status, runs_of(small)[model]) == (1, before)
    run_id = runs_of(small)[model]["sys/id"]["value"]
    assert f"the run {run_id} (http" in ended.row(model)["error"]
    assert "is the copy of an earlier object with the same ID: edit custom_run_id()" in ended.row(model)["error"]
    assert "or delete that run in the app, also from the trash" in ended.row(model)["error"]


def test_what_is_no_string_set_does_not_become_tags(small: Planted, tmp_path: Path) -> None:
    model = sources(small)[0]
    small.put(model, {"labels": value("string", "good"), "stars": value("stringSet", ["five"])})
    script = edited(tmp_path, PATH, 'return {"labels": "sys/tags", "stars": "sys/group_tags"}.get(path, path)')
    text = script.read_text("utf-8").replace(
        SYSTEM, SYSTEM.replace("return", 'return None if path.endswith("tags") else', 1)
    )
    script.write_text(text, "utf-8")
    ended = run(script, small)
    assert (ended.status, runs_of(small)[model]["sys/tags"]["value"]) == (0, ["model"])
    assert "skipped: labels (string: another field goes to sys/tags in the run)" in ended.row(model)["error"]
    assert sorted(runs_of(small)[model]["sys/group_tags"]["value"]) == sorted(["five", model])


def test_an_edit_of_what_is_wanted_keeps_the_note_of_a_kill(small: Planted, tmp_path: Path) -> None:
    """As --only does: the others have not been looked at."""
    lock = tmp_path / f"models_migration_{small.project.replace('/', '%2F')}.lock"
    lock.write_text("running")
    wanted = "return not options.only or any(fnmatch.fnmatchcase(source.id, pattern) for pattern in options.only)"
    assert run(edited(tmp_path, wanted, "return source.kind == MODEL"), small).status == 0
    assert lock.read_text() == "running"


# -- README's recipes, as they stand there --

RECIPES = re.findall(r"(?m)^\| [^|]+ \| `(\w+)` \| `(.+)` \|$", README.partition("## Make it yours")[2])


@pytest.fixture
def small(server: ServerProcess) -> Iterator[Planted]:
    with bare_registry(server) as registry:
        fields = {"params/cpu": value("float", 0.5), "train/depth": value("int", 1)}
        registry.version(registry.model(fields), fields)
        yield registry


def looked_at(function: str, planted: Planted, elsewhere: Path) -> object:
    """What a recipe is to bring about, as it stands."""
    runs = runs_of(planted).values()
    if function == "path_in_run":
        return {path for run in runs for path in run if not re.match("(old_)?sys/", path)}
    if function == "custom_run_id":
        return {run["sys/custom_run_id"]["value"].partition("-")[0] for run in runs}
    if function == "tags_of":
        return {"from registry" in run["sys/tags"]["value"] for run in runs}
    if function == "is_wanted":
        return {run["old_sys/model_id"]["value"] for run in runs} == {sources(planted)[0]} and len(runs) == 1
    return next(file.name for file in elsewhere.iterdir()).startswith("models_migration_")


def with_recipes(place: Path, elsewhere: Path, *recipes: tuple[str, str]) -> Path:
    """A copy of the script in which recipes are written where README says: above the last return, or the call."""
    text = SCRIPT.read_text("utf-8")
    for function, line in recipes:
        pattern = rf"(?s)\ndef {function}\(.*?\n(?=    (return[^\n]*|logging\.basicConfig.*?)\n\n\n)"
        found = re.search(pattern, text)
        assert found, function
        line = line.replace("/var/log", str(elsewhere))
        text = f"{text[: found.end()]}    {line}\n{text[found.end() :]}"
    script = place / "edited.py"
    script.write_text(text, "utf-8")
    return script


EFFECTS: list[tuple[str, object]] = [
    ("path_in_run", {"train/depth"}),
    ("path_in_run", {"params/cpu", "training/depth"}),
    ("custom_run_id", {"registry"}),
    ("tags_of", {True}),
    ("is_wanted", True),
    ("start_log", True),
]


@pytest.mark.parametrize("number", range(len(EFFECTS)))
def test_a_recipe_of_readme(small: Planted, tmp_path: Path, number: int) -> None:
    function, _ = RECIPES[number]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    script = with_recipes(tmp_path, elsewhere, RECIPES[number])
    ended = run(script, small)
    assert ended.status == 0, ended.output
    assert (function, looked_at(function, small, elsewhere)) == EFFECTS[number]
    again = run(script, small, "--verify")
    assert (again.status, {row["status"] for row in again.report}) == (0, {"verified"}), again.output


def test_the_flags_still_act_beside_all_recipes(small: Planted, tmp_path: Path) -> None:
    model, version = sources(small)
    staged = {"train/loss": value("float", 0.5), "sys/stage": value("string", "production")}
    small.put(version, staged)
    other = small.version(model, {"train/depth": value("int", 1)})
    script = with_recipes(tmp_path, tmp_path, *RECIPES)
    flags = ("--only", version, "--only", model, "--exclude", "train/loss", "--stage-as-tag")
    assert run(script, small, *flags).status == 0
    ((source, fields),) = runs_of(small).items()
    assert source == version != other
    assert {path for path in fields if not re.match("(old_)?sys/", path)} == {"training/depth"}
    assert fields["sys/tags"]["value"] == ["from registry", "model_version", "production"]
    assert "old_sys/stage" not in fields


def test_each_recipe_is_looked_at() -> None:
    assert [function for function, _ in RECIPES] == [function for function, _ in EFFECTS]


# -- the flag that does the same --


def test_excluded_fields_do_not_keep_a_copy_from_being_complete(planted: Planted, tmp_path: Path) -> None:
    """As where the server has lost the bytes of a file."""
    planted.server.instruments.fault("downloadAttribute", "status", status=404, times=None, path="weights")
    assert run(copied(tmp_path), planted).status == 1
    ended = run(copied(tmp_path), planted, "--exclude", "weights", "--exclude", "sys/*")
    planted.server.instruments.clear_faults()
    assert ended.status == 0, ended.output
    model = sources(planted)[0]

    def without(_: str, fields: Fields) -> None:
        fields.pop("weights", None)

    assert differing(planted, without) == []
    assert "left out: weights" in ended.row(model)["error"]
    assert "2 up to date, 0 to copy" in run(copied(tmp_path), planted).output
    verified = run(copied(tmp_path), planted, "--verify")
    assert (verified.status, "weights: it is not in the run" in verified.row(model)["error"]) == (1, True)
    assert run(copied(tmp_path), planted, "--recopy").status == 0
    assert differing(planted, lambda source, fields: None) == []
    run(copied(tmp_path), planted, "--exclude", "weights", "--recopy", "--trash-models", "--yes")
    assert not planted.state()["containers"][model]["trashed"]


def copied(place: Path) -> Path:
    """The script as it is, in a place of its own."""
    script = place / "model_to_run.py"
    script.write_bytes(SCRIPT.read_bytes())
    return script
