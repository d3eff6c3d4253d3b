"""Which module holds which studied parameters, and the layer rule that serves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from wherefrom.errors import UnsupportedError
from wherefrom.layers import Block, LayerRule, PlainModuleRule, rule_for
from wherefrom.task import ParameterSet

FALLBACK = "dense"
_PLAIN = PlainModuleRule()


@dataclass(frozen=True)
class Site:
    """Modules whose calls make the gradients of the same blocks: one, or several that share parameters.

    Attributes:
        name: of the first module, with the parameter where modules share only some of theirs.
        modules: hooked in every forward pass.
        rule: that reads them; `None` for the dense fallback.
        blocks: in the order of the rule; none for a module that is only opened up for its submodules.
        reason: why this rule, where that is not plain.
        unused: the outputs do not depend on its parameters, which every capture checks.
    """

    name: str
    modules: tuple[nn.Module, ...]
    rule: LayerRule | None
    blocks: tuple[Block, ...]
    reason: str = ""
    unused: bool = False

    @property
    def parameters(self) -> list[str]:
        """Names of the parameters in its blocks."""
        return list(dict.fromkeys(name for block in self.blocks for name in block.parameters))

    @property
    def explicit(self) -> bool:
        """Whether its gradients are made explicitly for want of a rule."""
        return self.rule is None or isinstance(self.rule, PlainModuleRule)


# A module's path, its own name of a parameter.
_Holder = tuple[str, str]


def find_sites(model: nn.Module, parameters: ParameterSet) -> list[Site]:
    """Sites that cover every studied parameter once.

    Raises:
        UnsupportedError: a studied module is compiled or scripted, so that hooks cannot see into it.
    """
    index = _positions(parameters)
    modules = dict(model.named_modules(remove_duplicate=True))
    holders = _holders(modules, model, parameters)
    _refuse_unseen(modules, holders)
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, own in holders.items():
        groups.setdefault(tuple(path for path, _ in own), []).append(name)
    first = dict.fromkeys(modules, 0)
    for paths in groups:
        first[paths[0]] += 1
    sites = [
        _site(modules, {name: holders[name] for name in names}, index, alone=first[paths[0]] == 1)
        for paths, names in groups.items()
    ]
    held = {path for own in holders.values() for path, _ in own}
    for path, module in modules.items():
        rule = rule_for(module)
        inside = any(path == "" or other.startswith(path + ".") for other in held)
        if rule is not None and rule.opens and path not in held and inside:
            sites.append(Site(path, (module,), rule, ()))
    return sites


def fallback_site(name: str, parameters: Sequence[str], index: dict[str, Tensor], reason: str) -> Site:
    """Explicit per-example gradients of these parameters through the whole model."""
    entries = torch.cat([index[parameter].reshape(-1) for parameter in parameters])
    block = Block(name or "model", FALLBACK, "rows", tuple(parameters), entries.reshape(1, -1, 1))
    return Site(name, (), None, (block,), reason)


def demoted(site: Site, parameters: ParameterSet, reason: str) -> Site:
    """The dense fallback for the parameters of a site whose rule does not fit."""
    return fallback_site(site.name, site.parameters, _positions(parameters), reason)


def _site(
    modules: dict[str, nn.Module], holders: dict[str, list[_Holder]], index: dict[str, Tensor], *, alone: bool
) -> Site:
    """The site of parameters that the same modules hold.

    Args:
        modules: by path.
        holders: of these parameters, by their names in the model.
        index: where entries lie.
        alone: whether the first module holds no other studied parameters.
    """
    names = list(holders)
    paths = [path for path, _ in holders[names[0]]]
    local = {name: own[0][1] for name, own in holders.items()}
    site_name = paths[0] if alone or len(paths) == 1 else names[0]
    rules = [rule_for(modules[path]) for path in paths]
    reason = ""
    if rules[0] is None:
        kind = type(modules[paths[0]]).__name__
        reason = f"{kind} has no layer rule"
        rules = [_PLAIN if _PLAIN.handles(modules[path]) else None for path in paths]
    rule = rules[0]
    if rule is None:
        return fallback_site(site_name, names, index, reason)
    if len(paths) > 1:
        shared = f"shared by {_listed(paths)}"
        reason = f"{reason}; {shared}" if reason else shared
        if any(other is not rule for other in rules):
            return fallback_site(site_name, names, index, f"{shared}, which have different layer rules")
        if any(other != own[0][1] for own in holders.values() for _, other in own):
            return fallback_site(site_name, names, index, f"{shared} under different names")
    blocks = rule.blocks(paths[0], modules[paths[0]], {local[name]: index[name] for name in names})
    wanted = torch.cat([index[name].reshape(-1) for name in names])
    covered = torch.cat([block.index.reshape(-1) for block in blocks])
    if not torch.equal(wanted.sort().values, covered.sort().values):
        return fallback_site(
            site_name,
            names,
            index,
            f"the rule {rule.name!r} does not serve all of {_listed(list(local.values()))}",
        )
    if site_name != paths[0]:
        # Blocks of one module are told apart by their names.
        blocks = [replace(block, name=site_name + block.name[len(paths[0] or "model") :]) for block in blocks]
    return Site(site_name, tuple(modules[path] for path in paths), rule, tuple(blocks), reason)


def _listed(words: list[str]) -> str:
    shown = [repr(word) for word in words[:4]] + (["…"] if len(words) > 4 else [])
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + " and " + shown[-1]


def _positions(parameters: ParameterSet) -> dict[str, Tensor]:
    """Where the entries of each studied parameter lie in `θ`."""
    found, start = {}, 0
    for name, value in parameters.values.items():
        found[name] = torch.arange(start, start + value.numel(), device=value.device).reshape(value.shape)
        start += value.numel()
    return found


def _holders(
    modules: dict[str, nn.Module], model: nn.Module, parameters: ParameterSet
) -> dict[str, list[_Holder]]:
    """For every studied parameter the modules that hold it themselves, in the model's order."""
    every = dict(model.named_parameters())
    studied = {id(every[name]): name for name in parameters.names}
    found: dict[str, list[_Holder]] = {name: [] for name in parameters.names}
    for path, module in modules.items():
        for local, value in module._parameters.items():
            if value is not None and id(value) in studied:
                found[studied[id(value)]].append((path, local))
    return found


def _refuse_unseen(modules: dict[str, nn.Module], holders: dict[str, list[_Holder]]) -> None:
    held = {path for own in holders.values() for path, _ in own}
    for path, module in modules.items():
        if not any(path in ("", other) or other.startswith(path + ".") for other in held):
            continue
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedError(
                f"module {path or 'model'!r} is scripted or traced by torch.jit, so its layers cannot be "
                "seen by hooks. Pass the plain nn.Module it was made from, or use solver=CG()."
            )
        if type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None:
            raise UnsupportedError(
                f"module {path or 'model'!r} is compiled by torch.compile, so its layers cannot be seen by "
                "hooks. Pass the module it was made from (its _orig_mod), or a copy that is not compiled."
            )
