"""The doctor's checks of what is set up: settings, keys, ports, the model's files, the engines.
Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from serve.doctor.engines import EngineFacts
from serve.doctor.facts import Facts
from serve.doctor.findings import Finding, ok, problem, size, warning
from serve.settings import EngineSettings

_MEND = "Mend it there; docs/configuration.md lists every key."


def check_settings(facts: Facts) -> Iterator[Finding]:
    for error in facts.settings_errors:
        yield _refused("settings", error, _MEND)
    if facts.exposure is not None:
        yield _refused("settings", facts.exposure, _MEND)
    if isinstance(facts.presets, str):
        yield _refused("settings", facts.presets, "docs/presets.md explains every key.")
    if not facts.settings_errors and facts.exposure is None and isinstance(facts.presets, int):
        yield ok("settings", f"{facts.source}, {facts.presets} presets")


def _refused(check: str, message: str, remedy: str) -> Finding:
    """What a settings error says after its first sentence is its remedy."""
    for mark in (". ", "; "):
        summary, _, told = message.partition(mark)
        if told:
            end = "" if told.endswith(("?", ".")) else "."
            return problem(check, f"{summary}.", f"{told[:1].upper()}{told[1:]}{end}")
    return problem(check, f"{message}.", remedy)


def check_keys(facts: Facts) -> Iterator[Finding]:
    if isinstance(facts.keys, str):
        yield problem(
            "keys",
            f"{facts.keys}.",
            "Name the right file as `server.keys_file`; `r1-serve key create NAME --file FILE` "
            "makes one.",
        )
    elif facts.keys == 0:
        yield warning(
            "keys",
            "`server.keys_file` has no key: nobody is let in.",
            "Make one: `r1-serve key create NAME --file FILE`.",
        )
    elif facts.keys is not None:
        yield ok("keys", str(facts.keys))


def check_ports(facts: Facts) -> Iterator[Finding]:
    taken = [use for use in facts.ports if use.fault is not None and not use.is_ours]
    for use in taken:
        yield problem(
            "ports",
            use.fault or "",
            f"Set another port (`{use.setting}`), or stop the program that has it.",
        )
    numbers = Counter(use.port for use in facts.ports)
    twice = [port for port, number in numbers.items() if number > 1]
    for port in twice:
        yield problem(
            "ports",
            f"Port {port} is the router's and an engine's.",
            "Set `server.port` outside of the ports from `engine.port` on.",
        )
    if facts.ports and not taken and not twice:
        held = [str(use.port) for use in facts.ports if use.is_ours]
        free = [str(use.port) for use in facts.ports if not use.is_ours]
        told = [f"{', '.join(held)} held by the r1-serve that runs"] if held else []
        told += [f"{', '.join(free)} free"] if free else []
        yield ok("ports", "; ".join(told))


def check_model(facts: Facts) -> Iterator[Finding]:
    model, setup = facts.model, facts.setup
    if model is None or setup is None:
        return
    for fault in model.faults:
        yield problem("model", f"{model.directory}: {fault.summary}", fault.remedy or "")
    limit = setup.settings.engine.max_model_len
    if model.context is not None and limit > model.context:
        yield problem(
            "model",
            f"`engine.max_model_len` = {limit} is more than the {model.context} positions that "
            "the model was made for.",
            f"Set `engine.max_model_len` to {model.context} or less.",
        )
    elif model.directory is None:
        yield _absent(facts)
    elif not model.faults:
        weights = f", {size(model.shape.weights_bytes)} of weights" if model.shape else ""
        yield ok("model", f"{model.directory} is complete{weights}")


def _absent(facts: Facts) -> Finding:
    model = facts.model
    if model is None or not model.is_repository:
        name = model.name if model else ""
        return problem(
            "model",
            f"There is no directory {name}.",
            "Set `engine.model` to a model's directory, or to a repository (`owner/name`).",
        )
    pull = f"`r1-serve model pull {model.name}`"
    missing = ", ".join(model.missing)
    lacking = f"{missing} of {model.name}" if missing else f"{model.name}"
    are = "are" if len(model.missing) > 1 else "is"
    if model.may_download:
        return warning(
            "model",
            f"{lacking} {are} not on this machine: the first start downloads it.",
            f"{pull} does it beforehand.",
        )
    return problem(
        "model",
        f"{lacking} {are} not on this machine, and HF_HUB_OFFLINE forbids to download it.",
        f"{pull} where the hub can be reached, and copy the directory; or unset HF_HUB_OFFLINE.",
    )


def check_engines(facts: Facts) -> Iterator[Finding]:
    """Each can be reached, and all serve the same."""
    if isinstance(facts.engines, str):
        yield problem(
            "engines",
            f"{facts.engines}.",
            "Mend `router.engine_dns`, or start the engines: a headless Service without a ready "
            "pod has no addresses.",
        )
        return
    for engine in facts.engines or ():
        if engine.error is not None:
            told = engine.error if engine.url in engine.error else f"{engine.url}: {engine.error}"
            yield problem(
                "engines",
                f"{told}.",
                "Start that engine, or mend its URL; `curl URL/health` and its log tell more.",
            )
    answering = [it for it in facts.engines or () if it.error is None]
    found = list(_differences(answering, facts))
    yield from found
    if answering and not found:
        names = ", ".join(sorted(answering[0].models))
        yield ok("engines", f"{len(answering)} serve {names}")


def _differences(engines: list[EngineFacts], facts: Facts) -> Iterator[Finding]:
    if not engines:
        return
    first, wanted = engines[0], _named(facts)
    for other in engines[1:]:
        if other.models.keys() != first.models.keys():
            yield problem(
                "engines",
                f"{first.url} serves {_names(first)}, {other.url} serves {_names(other)}.",
                "Start all with the same `--model` and `--served-model-name`, or give each model "
                "a router of its own.",
            )
        elif other.models != first.models:
            yield warning(
                "engines",
                f"{first.url} and {other.url} differ in `--max-model-len`: "
                f"{_lengths(first)} and {_lengths(other)}.",
                "Start all with the same: a reply can go on only where it fits.",
            )
        if other.version != first.version:
            yield warning(
                "engines",
                f"{first.url} runs vLLM {first.version}, {other.url} {other.version}.",
                "Finish the upgrade: equal text isn't certain when a reply goes on elsewhere.",
            )
    if wanted is not None and wanted not in first.models:
        yield problem(
            "engines",
            f"`engine.served_name` = `{wanted}`, and {first.url} serves {_names(first)}.",
            "Set `engine.served_name` to the engines' `--served-model-name`.",
        )


def _named(facts: Facts) -> str | None:
    """The model's name, where the settings give one."""
    default = EngineSettings().served_name
    name = facts.setup.settings.engine.served_name if facts.setup else default
    return None if name == default else name


def _names(engine: EngineFacts) -> str:
    return ", ".join(sorted(engine.models)) or "nothing"


def _lengths(engine: EngineFacts) -> str:
    return ", ".join(str(length) for length in engine.models.values())


def check_ray(facts: Facts) -> Iterator[Finding]:
    if facts.setup is None or facts.setup.settings.engine.backend != "ray":
        return
    if facts.ray_error is None:
        yield ok("ray", facts.setup.settings.ray.address or "`up` starts one here")
    elif "installed" in facts.ray_error:
        yield problem("ray", f"{facts.ray_error}.", 'Install it: `pip install "r1-serve[ray]"`.')
    else:
        yield problem(
            "ray",
            f'`ray.address` = "{facts.setup.settings.ray.address}": {facts.ray_error}.',
            "Start the cluster (`ray start --head`), mend the address, or leave `ray.address` out "
            "for a cluster of `up`'s own.",
        )


CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    check_settings,
    check_keys,
    check_ports,
    check_model,
    check_engines,
    check_ray,
)
