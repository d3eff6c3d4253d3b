"""Which module holds which studied parameters, and the layer rule that serves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from whence.errors import UnsupportedError
from whence.layers import Block, LayerRule, rule_for
from whence.task import ParameterSet

FALLBACK = "dense"


@dataclass(frozen=True)
class Site:
    """Modules whose calls make the gradients of the same blocks: one, or several that share all their
    parameters.

    Attributes:
        modules: hooked in every forward pass.
        rule: that reads them; `None` for the dense fallback.
        blocks: in the order of the rule.
        reason: why this rule.
    """

    path: str
    modules: tuple[nn.Module, ...]
    rule: LayerRule | None
    blocks: tuple[Block, ...]
    reason: str = ""


def find_sites(model: nn.Module, parameters: ParameterSet) -> list[Site]:
    """Sites that cover every studied parameter once.

    Raises:
        UnsupportedError: a studied module is compiled or scripted, so that hooks cannot see into it.
    """
    index = _positions(parameters)
    owned = _owners(model, parameters)
    owners: dict[str, list[str]] = {}
    for path, local in owned.items():
        for name in local.values():
            owners.setdefault(name, []).append(path)
    modules = dict(model.named_modules(remove_duplicate=True))
    _refuse_unseen(modules, owned)
    sites, done = [], set()
    for path, local in owned.items():
        if path in done:
            continue
        sharing = sorted({other for name in local.values() for other in owners[name]}, key=list(owned).index)
        done.update(sharing)
        names = list(dict.fromkeys(name for other in sharing for name in owned[other].values()))
        rules = [rule_for(modules[other]) for other in sharing]
        rule = rules[0]
        if len(sharing) > 1 and (
            any(other is not rule for other in rules) or any(owned[other] != local for other in sharing)
        ):
            shared = " and ".join(map(repr, sharing))
            sites.append(fallback_site(path, names, index, f"{shared} share some parameters, not all"))
        elif rule is None:
            kind = type(modules[path]).__name__
            sites.append(fallback_site(path, names, index, f"{kind} has no layer rule"))
        else:
            blocks = rule.blocks(path, modules[path], {key: index[name] for key, name in local.items()})
            members = tuple(modules[other] for other in sharing)
            sites.append(Site(path, members, rule, tuple(blocks)))
    return sites


def fallback_site(path: str, names: Sequence[str], index: dict[str, Tensor], reason: str) -> Site:
    """Explicit per-example gradients of these parameters by `torch.vmap`."""
    entries = torch.cat([index[name].reshape(-1) for name in names])
    block = Block(path or "model", FALLBACK, "rows", tuple(names), entries.view(1, -1, 1))
    return Site(path, (), None, (block,), reason)


def demoted(site: Site, parameters: ParameterSet, reason: str) -> Site:
    """The dense fallback for the parameters of a site whose rule does not fit."""
    names = list(dict.fromkeys(name for block in site.blocks for name in block.parameters))
    return fallback_site(site.path, names, _positions(parameters), reason)


def _positions(parameters: ParameterSet) -> dict[str, Tensor]:
    """Where the entries of each studied parameter lie in `θ`."""
    found, start = {}, 0
    for name, value in parameters.values.items():
        found[name] = torch.arange(start, start + value.numel(), device=value.device).view(value.shape)
        start += value.numel()
    return found


def _owners(model: nn.Module, parameters: ParameterSet) -> dict[str, dict[str, str]]:
    """For every module that holds studied parameters itself: from its own names to those of the model."""
    every = dict(model.named_parameters())
    studied = {id(every[name]): name for name in parameters.names}
    found = {}
    for path, module in model.named_modules():
        own = {
            local: studied[id(value)]
            for local, value in module.named_parameters(recurse=False)
            if id(value) in studied
        }
        if own:
            found[path] = own
    return found


def _refuse_unseen(modules: dict[str, nn.Module], owned: dict[str, dict[str, str]]) -> None:
    for path, module in modules.items():
        inside = any(path == "" or owner == path or owner.startswith(path + ".") for owner in owned)
        if not inside:
            continue
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedError(
                f"module {path or 'model'!r} is scripted or traced by torch.jit, so its layers cannot be "
                "seen by hooks. Pass the plain nn.Module it was made from, or use solver=CG()."
            )
        if type(module).__name__ == "OptimizedModule":
            raise UnsupportedError(
                f"module {path or 'model'!r} is compiled by torch.compile, so its layers cannot be seen by "
                "hooks. Pass the module it was made from (its _orig_mod)."
            )
