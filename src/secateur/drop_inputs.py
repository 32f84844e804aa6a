"""What a run with `--max-drop` starts from besides: its budget without a size, and its questions."""

from secateur.budget import MINIMIZED
from secateur.config import RunConfig
from secateur.data import Role
from secateur.errors import BudgetError, ConfigError
from secateur.evaluation.multiple_choice import ChoiceSet, load_choices
from secateur.model.loading import DenseModel
from secateur.schema import derive_seed
from secateur.search.sizes import open_budget
from secateur.space.cost import Amount, Budget
from secateur.space.search_space import SearchSpace


def refuse_drop(config: RunConfig) -> None:
    """Refuse what cannot be had together with `--max-drop`.

    Raises:
        ConfigError: Says what, and what to do instead.
    """
    drop, search = config.budget.max_drop, config.search
    if drop is None:
        if config.budget.minimize != "params":
            raise ConfigError(
                f"--minimize {config.budget.minimize} says what is made small within --max-drop, which was not given; "
                "add --max-drop 5%, or limit the cost itself"
            )
        return
    if search.method != "secateur":
        raise ConfigError(f"--max-drop needs search.method=secateur, got {search.method}; leave --preset out")
    if config.data.groups or search.objectives:
        what = "--groups" if config.data.groups else "search.objectives"
        raise ConfigError(f"--max-drop looks for one model and cannot weigh {what}; leave one of the two out")
    if drop.metric == "accuracy" and config.drop.multiple_choice is None:
        raise ConfigError(
            "--max-drop accuracy=... needs questions; add --set drop.multiple_choice=FOLDER, with dev/ and test/ in "
            "MMLU's format"
        )


def drop_budget(config: RunConfig, space: SearchSpace) -> Budget:
    """Give the budget of a run with `--max-drop`: what is made small, first, and the other limits as ceilings.

    Raises:
        BudgetError: A ceiling cannot be met, or nothing can be cut.
    """
    ceilings: dict[str, Amount] = {}
    if config.budget.keep is not None:
        ceilings |= {
            limit.cost.name: limit.ceiling for limit in Budget.from_keep(space.shape, config.budget.keep, 1e-9).limits
        }
    cost = MINIMIZED[config.budget.minimize]
    if not any(len(set(costs)) > 1 for costs in space.table(space.costs[cost])):
        raise BudgetError(
            f"--minimize {config.budget.minimize}: every architecture of the search space has the same; protect fewer "
            "layers (space.protect_first, space.protect_last)"
        )
    return open_budget(space, cost, ceilings | config.budget.ceilings)


def load_drop_questions(config: RunConfig, dense: DenseModel) -> dict[Role, ChoiceSet]:
    """Read the questions to select and to evaluate by, where the drop is one of accuracy.

    Raises:
        DataError: The folder cannot be used, or holds too few.
    """
    drop = config.budget.max_drop
    if drop is None or drop.metric != "accuracy":
        return {}
    folder, wanted = config.drop.multiple_choice, config.drop
    assert folder is not None, "refused before"
    return {
        role: load_choices(
            folder,
            wanted.shots,
            role,
            wanted.questions,
            derive_seed(config.seed, "drop questions"),
            dense,
            config.evaluation.batch_tokens,
        )
        for role in (Role.SELECTION, Role.EVALUATION)
    }
