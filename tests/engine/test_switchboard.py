"""What a running run lets itself be told: by whom, which values, and with which words it refuses."""

from typing import Any

import pytest
from support.live_calls import Window

from data_bridge.config import PipelineSettings, Settings
from data_bridge.engine.orders import Orders
from data_bridge.engine.switchboard import Switchboard
from data_bridge.model.changes import Change
from data_bridge.model.source import Field
from data_bridge.runtime.control import Reply, Request, Response

WINDOW = f"{Window.__module__}:Window"


def settings(**blocks: Any) -> Settings:
    stages = [
        {WINDOW: {"width": 3, "headers": {"a": "b"}}, "name": "window"},
        {"filter": {"call": "support.live_calls:even"}},
        {"filter": {"call": "support.live_calls:even"}, "name": "off", "enabled": False},
        {"map": {"call": "support.live_calls:times"}, "executor": "thread", "workers": 5, "name": "slow"},
    ]
    return Settings.model_validate({"pipeline": {"input_uri": "in.jsonl", "stages": stages} | blocks})


class Desk:
    """A switchboard and the orders it gives."""

    def __init__(self, **blocks: Any) -> None:
        self.orders = Orders()
        self.orders.workers = 2
        self._board = Switchboard(settings(**blocks), "0123456789abcdef", self.orders)

    def __call__(self, command: str, stage: str | None = None, key: str | None = None, value: Any = None) -> Response:
        return self._board.answer(Request(command, stage, key, value, "7"))

    def set(self, key: str, value: Any, stage: str = "window") -> Reply:
        reply = self("set", stage, key, value).replies[stage]
        assert reply is not None
        return reply

    @property
    def changes(self) -> list[tuple[str, str, Any]]:
        return [(c.stage, c.key, c.value) for c in self.orders.standing.changes]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_an_accepted_value_is_ordered_and_described(desk: Desk) -> None:
    assert desk.set("width", 5).accepted

    described = desk("describe", "window").replies["window"]
    assert desk.changes == [("window", "width", 5)]
    assert described is not None
    assert described.data["options"]["width"] == {
        "value": 5,
        "live": "any",
        "description": "samples on each side",
        "type": "int",
    }


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("width", "5", "width: Input should be a valid integer"),
        ("width", True, "width: Input should be a valid integer"),
        ("width", 0, "width: Input should be greater than 0"),
        ("width", None, "width: Input should be a valid integer"),
        ("width", 8, "width: a window has at most 7 samples"),
        ("coeffs", [], "coeffs: a filter has coefficients"),
        ("coeffs", ["1"], "coeffs.0: Input should be a valid number"),
        ("coeffs", {}, "coeffs: Input should be a valid array"),
        ("strict", 1, "strict: Input should be a valid boolean"),
        ("strict", "yes", "strict: Input should be a valid boolean"),
        ("enabled", 1, "enabled: true or false is needed, not 1"),
        ("enabled", "false", "enabled: true or false is needed, not 'false'"),
        (
            "mode",
            "same",
            "mode cannot change while the run goes on; it may set enabled, width, coeffs, strict, depth, extra",
        ),
        ("widht", 5, "unknown key 'widht'; it may set enabled, width, coeffs, strict, depth, extra"),
        ("depth", 5, "depth can change only while the run is paused"),
        ("headers", {"a": "c"}, "headers may be a secret, and a change is written down at the destination"),
        ("extra", {"token": "c"}, "extra: it holds what sounds like a secret"),
        ("extra", {"from": "https://host/a?sig=1"}, "extra: it holds what sounds like a secret"),
        ("extra", {"from": "https://me:word@host/a"}, "extra: it holds what sounds like a secret"),
    ],
)
def test_what_is_refused_is_refused_with_a_reason_and_changes_nothing(
    desk: Desk, key: str, value: Any, why: str
) -> None:
    reply = desk.set(key, value)

    assert not reply.accepted
    assert reply.reason.startswith(why)
    assert desk.changes == []


def test_a_value_that_names_a_field_nobody_has_is_refused_and_never_in_force() -> None:
    stages = [
        {"filter": {"where": {"n": {"min": 1}}}},
        {"map": {"call": "support.live_calls:times"}},
        {"filter": {"where": {"made": {"min": 1}}}, "name": "behind"},
    ]
    orders = Orders()
    board = Switchboard(settings(stages=stages), "0123456789abcdef", orders, (Field(name="n", type="int64"),))

    def ask(stage: str, key: str, value: Any) -> Reply:
        reply = board.answer(Request("set", stage, key, value)).replies[stage]
        assert reply is not None
        return reply

    unknown = ask("filter", "where", {"m": {"min": 1}})
    assert not unknown.accepted
    assert unknown.reason.startswith("stages.filter: where: there is no field 'm' here")
    assert "is int64" in ask("filter", "where", {"n": {"matches": "a"}}).reason
    assert orders.standing.changes == ()
    assert ask("filter", "where", {"n": {"max": 3}}).accepted
    assert ask("behind", "where", {"other": {"min": 1}}).accepted, "what a function makes is not known"


def test_arguments_that_the_function_does_not_take_are_refused(desk: Desk) -> None:
    refused = desk.set("arguments", {"fator": 2}, "slow")

    assert refused.reason.startswith("arguments: arguments: support.live_calls:times takes a row and factor: int = 1, ")
    assert desk.set("arguments", {"factor": 2}, "slow").accepted


def test_what_can_change_only_while_paused_can_change_then(desk: Desk) -> None:
    desk("pause")

    assert desk.set("depth", 5).accepted
    assert desk.changes == [("window", "depth", 5)]


def test_values_are_as_strict_as_json_and_no_stricter(desk: Desk) -> None:
    assert desk.set("coeffs", [1, 0.5]).accepted
    assert desk.set("strict", True).accepted
    assert desk.changes == [("window", "coeffs", [1, 0.5]), ("window", "strict", True)]


def test_the_value_it_has_already_is_no_change(desk: Desk) -> None:
    assert desk.set("width", 3).reason == "it has this value already"
    desk.set("width", 5)
    assert desk.set("width", 5).accepted
    assert len(desk.changes) == 1


def test_changes_are_numbered_behind_those_of_earlier_runs() -> None:
    orders = Orders([Change(number=4, id="old", stage="window", key="width", value=6)])
    board = Switchboard(settings(), "0123456789abcdef", orders)

    board.answer(Request("set", "window", "width", 7))

    assert [change.number for change in orders.standing.changes] == [4, 5]


def test_bypass_and_enable_switch_a_stage(desk: Desk) -> None:
    desk("bypass", "filter")
    desk("enable", "filter")

    assert desk.changes == [("filter", "enabled", False), ("filter", "enabled", True)]


def test_a_stage_that_what_follows_needs_cannot_be_bypassed(desk: Desk) -> None:
    reply = desk("bypass", "window").replies["window"]

    assert reply == Reply(accepted=False, reason="samples cannot pass it unchanged: what follows needs what it makes")


def test_a_stage_that_was_off_when_counts_were_planned_stays_off(desk: Desk) -> None:
    reply = desk("enable", "off").replies["off"]

    assert reply is not None
    assert reply.reason == "the plan counts on it being off; switch it on in the config of a new dataset"


def test_a_command_to_everybody_is_answered_by_those_who_understand(desk: Desk) -> None:
    assert desk("pause").replies == {
        "engine": Reply(accepted=True),
        "window": None,
        "filter": None,
        "off": None,
        "slow": None,
    }
    assert desk("set", None, "width", 4).replies["filter"] is None
    assert desk.changes == [("window", "width", 4)]


@pytest.mark.parametrize(
    ("command", "stage", "error"),
    [
        ("flush", None, "nobody understands 'flush'"),
        ("pause", "window", "window does not understand 'pause'"),
        ("bypass", "engine", "engine does not understand 'bypass'"),
        ("set", "windw", "there is no stage 'windw'"),
    ],
)
def test_what_nobody_understands_is_an_error(desk: Desk, command: str, stage: str | None, error: str) -> None:
    assert desk(command, stage, "width", 4).error == error
    assert desk.changes == []


def test_a_stage_that_there_is_not_is_guessed(desk: Desk) -> None:
    assert desk("set", "windw").hint.startswith("did you mean `window`? there is engine, window,")


@pytest.mark.parametrize("value", [0, -1, True, "2", 2.0, None, 5000])
def test_a_number_of_workers_that_is_none_is_refused(desk: Desk, value: Any) -> None:
    assert desk.set("workers", value, "engine").reason.startswith("workers: a number from 1 to 1024 is needed")
    assert desk.orders.workers == 2


def test_the_number_of_workers_changes(desk: Desk) -> None:
    assert desk.set("workers", 5, "engine").accepted
    assert (desk.orders.workers, desk.orders.standing.slots) == (5, 5)


def test_uploads_and_the_rows_of_a_stage_that_waits_change_without_a_record(desk: Desk) -> None:
    assert desk.set("upload_concurrency", 4, "engine").accepted
    assert desk.set("workers", 9, "slow").accepted

    described = desk("describe").replies
    assert described["engine"] is not None
    assert described["slow"] is not None
    assert described["engine"].data["options"]["upload_concurrency"]["value"] == 4
    assert described["slow"].data["options"]["workers"]["value"] == 9
    assert (desk.orders.standing.uploads, desk.orders.standing.threads) == (4, (("slow", 9),))
    assert desk.changes == []


@pytest.mark.parametrize("value", [0, True, "2"])
def test_a_number_of_rows_that_is_none_is_refused(desk: Desk, value: Any) -> None:
    assert desk.set("workers", value, "slow").reason.startswith("workers: a number from 1 to 1024 is needed")
    assert desk.set("workers", value, "filter").reason.startswith("unknown key 'workers'; it may set enabled")


def test_a_run_in_one_process_has_no_number_of_workers(desk: Desk) -> None:
    desk.orders.workers = 0

    assert desk.set("workers", 2, "engine").reason.startswith("this run works in one process")


def test_the_engine_has_no_other_keys(desk: Desk) -> None:
    assert desk.set("width", 2, "engine").reason == "unknown key 'width'; it may set workers, upload_concurrency"


@pytest.mark.parametrize(
    ("commands", "state"),
    [([], "running"), (["pause"], "paused"), (["pause", "resume"], "running"), (["drain"], "draining"), (["stop"], "stopping")],
)  # fmt: skip
def test_the_state_of_the_run_is_described(desk: Desk, commands: list[str], state: str) -> None:
    for command in commands:
        desk(command)

    described = desk("describe").replies["engine"]
    assert described is not None
    assert described.data["state"] == state
    assert set(described.data["commands"]) >= {"pause", "resume", "drain", "stop", "set", "describe", "export-config"}


@pytest.mark.parametrize(("command", "state"), [("drain", "draining"), ("stop", "stopping")])
def test_a_run_that_ends_is_not_paused(desk: Desk, command: str, state: str) -> None:
    desk(command)

    reply = desk("pause").replies["engine"]

    assert reply is not None
    assert reply.reason == f"the run is {state} already"


def test_the_exported_config_loads_and_has_the_live_values(desk: Desk) -> None:
    desk.set("width", 5)
    desk("bypass", "filter")
    desk.set("workers", 3, "engine")
    desk.set("upload_concurrency", 4, "engine")
    desk.set("workers", 9, "slow")

    reply = desk("export-config").replies["engine"]

    assert reply is not None
    exported = PipelineSettings.model_validate(reply.data["pipeline"])
    assert [(s.name, s.kind, s.enabled) for s in exported.stages] == [
        ("window", WINDOW, True),
        ("filter", "filter", False),
        ("off", "filter", False),
        ("slow", "map", True),
    ]
    assert exported.stages[3].workers == 9
    assert exported.upload_concurrency == 4
    assert exported.stages[0].options == {"width": 5}
    assert exported.workers == 3
    assert exported.input_uri == "in.jsonl"


def test_secrets_are_neither_described_nor_exported(desk: Desk) -> None:
    described = desk("describe", "window").replies["window"]

    assert described is not None
    assert "headers" not in described.data["options"]


@pytest.fixture
def paying() -> Desk:
    return Desk(stages=[{"support.oracle:Asks": {"url": "http://127.0.0.1:9/"}, "rate": 5}])


def test_how_many_calls_of_a_paid_stage_begin_is_an_order_and_no_change(paying: Desk) -> None:
    def described() -> tuple[Any, Any]:
        reply = paying("describe", "asks").replies["asks"]
        assert reply is not None
        return reply.data["options"]["workers"]["value"], reply.data["options"]["rate"]["value"]

    assert described() == (30, 5)
    assert paying.set("rate", 2.5, "asks").accepted
    assert paying.set("workers", 7, "asks").accepted
    assert described() == (7, 2.5)
    assert paying.set("rate", None, "asks").accepted

    assert described() == (7, None)
    assert paying.orders.standing.rates == (("asks", 0.0),)
    assert paying.changes == []


@pytest.mark.parametrize("value", [0, -1, True, "3", float("inf"), float("nan"), [1]])
def test_what_is_no_rate_is_refused_and_the_old_one_stays(paying: Desk, value: Any) -> None:
    reply = paying.set("rate", value, "asks")

    assert not reply.accepted
    assert reply.reason == f"rate: a number above 0 is needed, or null for none, not {value!r}"
    assert paying.orders.standing.rates == ()


def test_only_a_paid_stage_has_a_rate(desk: Desk) -> None:
    reply = desk.set("rate", 3, "slow")

    assert not reply.accepted
    assert "unknown key 'rate'" in reply.reason
