"""What a run that recovers starts from besides: text to train on, none of which is selected by or evaluated on."""

from collections.abc import Mapping

from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from secateur.config import DataConfig, RunConfig
from secateur.data import NO_TEXTS, Role, Texts, TokenSet, group_documents_of, read_documents
from secateur.errors import ConfigError
from secateur.recovery.robust.build import refuse_unfit
from secateur.recovery.text import RecoverySet, build_recovery_set

# What is in no group of text, where there are groups; and all text, where there are none.
UNGROUPED = "text"
Assigned = Mapping[Role, list[str]]


def refuse_recovery(config: RunConfig, *, dense: bool = True) -> None:
    """Refuse a recovery that cannot be had, before any work.

    Args:
        dense: Whether the dense model is there.

    Raises:
        ConfigError: Says what, and what to do instead.
    """
    recipe = config.recovery
    if recipe.method == "none":
        if recipe.robust != "none":
            raise ConfigError(
                f"recovery.robust={recipe.robust} is a way to recover, and no recovery was asked for; add --recover "
                "lora"
            )
        return
    refuse_unfit(recipe, (*config.data.groups, UNGROUPED), {}, dense=dense)
    if config.space.hidden and recipe.hidden_share:
        raise ConfigError(
            "recovery.hidden_share compares hidden states channel by channel, and space.hidden takes channels away; "
            "leave one of the two out"
        )


def recovery_documents(
    data: DataConfig, assigned: Assigned, groups: Mapping[str, Assigned], texts: Texts = NO_TEXTS
) -> dict[str, list[str]]:
    """Give the documents to train on, by domain: each group of text, and what is in none.

    They are those of `data.recovery`, or of calibration where it names nothing, and of every group what the hash gives
    to calibration; never a document of a selection or evaluation set, of whatever group.

    Args:
        assigned: Documents by role, as `assign_documents` gave them.
        groups: The same by group of text.
    """
    every = (assigned, *groups.values())
    held = {d for each in every for role in (Role.SELECTION, Role.EVALUATION) for d in each.get(role, ())}
    own = [document for source in data.recovery for document in read_documents(source, data.text_field, texts)]
    general = own or assigned[Role.CALIBRATION]
    grouped = {
        name: group_documents_of(source, Role.CALIBRATION, data.text_field, texts)
        for name, source in data.groups.items()
    }
    taken: set[str] = set(held)
    domains: dict[str, list[str]] = {}
    for name, documents in (grouped | {UNGROUPED: general}).items():
        kept = [document for document in dict.fromkeys(documents) if document not in taken]
        taken.update(kept)
        if kept:
            domains[name] = kept
    return domains


def load_recovery_set(
    config: RunConfig,
    assigned: Assigned,
    groups: Mapping[str, Assigned],
    tokenizer: PreTrainedTokenizerBase,
    texts: Texts = NO_TEXTS,
) -> RecoverySet:
    """Pack the documents to train on into windows, by domain.

    Raises:
        DataError: There is too little text.
    """
    data = config.data
    documents = recovery_documents(data, assigned, groups, texts)
    return build_recovery_set(documents, tokenizer, data.sequence_length, config.recovery.tokens)


def selection_by_domain(
    recovery_set: RecoverySet, selection: TokenSet, groups: Mapping[str, Mapping[Role, TokenSet]]
) -> dict[str, Int[Tensor, "_ length"]]:
    """Give the selection windows that judge each domain of a recovery set.

    Args:
        selection: Of the run, which stands for what is in no group.
        groups: Sets by group of text and role.
    """
    own = {name: each[Role.SELECTION] for name, each in groups.items()} | {UNGROUPED: selection}
    return {name: own[name].expect(Role.SELECTION).tokens for name in recovery_set.domain_names}
