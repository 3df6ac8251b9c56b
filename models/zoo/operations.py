"""Problems of operations research: stock that may run out, and a machine that wears."""

from __future__ import annotations

from collections.abc import Sequence

from cai.models.common.checks import as_count, as_distribution
from cai.models.trajectory.model import TrajectoryModel
from cai.models.zoo.tabulated import Outcomes, tabulate

__all__ = ["inventory", "machine"]


def inventory(
    demand: Sequence[float] = (0.25, 0.5, 0.25),
    *,
    capacity: int = 3,
    price: float = 8.0,
    order_cost: float = 4.0,
    unit_cost: float = 2.0,
    holding_cost: float = 1.0,
    initial_stock: int = 0,
    horizon: int | float = 12,
    temperature: float = 1.0,
    discount: float = 1.0,
) -> TrajectoryModel:
    """How much to order each month, before the demand is known.

    Stochastic inventory control as in Puterman 1994, "Markov Decision Processes", sections 3.2.1 and 3.2.2, whose
    numbers are the defaults: with u = s + a units at hand after the order, what is sold is min(demand, u), unmet
    demand is lost, and a month pays price * sold - order(a) - holding_cost * u, where order(a) = order_cost +
    unit_cost * a for a > 0. Puterman's reward is the mean of this over demand. Here each outcome pays what it sells,
    s + a - s' units, which changes nothing for fixed dynamics, but lets exact inference believe in customers.

    Args:
        demand: probabilities of a demand of 0, 1, 2, ... units a month.
        capacity: of the store, in units; the states are 0 to capacity.
        price: of a unit sold, in reward units.
        order_cost: of an order, whatever its size.
        unit_cost: of each unit ordered.
        holding_cost: a month, of each unit at hand after the order.
        initial_stock: units at the start.
        horizon: T, in months.
        temperature: alpha.
        discount: in (0, 1].
    """
    chances = as_distribution(demand, "demand")
    as_count(capacity, "capacity")
    if as_count(initial_stock, "initial_stock", 0) > capacity:
        raise ValueError(
            f"initial_stock is {initial_stock}, and the store holds {capacity}; give a number from 0 to that"
        )
    table: dict[str, dict[str, Outcomes]] = {}
    for stock in range(capacity + 1):
        rows: dict[str, Outcomes] = {}
        for order in range(capacity - stock + 1):
            at_hand = stock + order
            costs = (order_cost + unit_cost * order if order else 0.0) + holding_cost * at_hand
            sales = [(chance, min(wanted, at_hand)) for wanted, chance in enumerate(chances)]
            rows[f"order {order}"] = [(chance, f"{at_hand - sold}", price * sold - costs) for chance, sold in sales]
        table[f"{stock}"] = rows
    mdp, reward = tabulate(table, f"{initial_stock}", regions={"empty": [0]})
    return TrajectoryModel(mdp, reward, horizon, temperature, discount, name="inventory")


def machine(
    wear: Sequence[float] = (0.5, 0.3, 0.2),
    *,
    num_states: int = 6,
    income: float = 10.0,
    operating_cost: float = 2.0,
    replace_cost: float = 8.0,
    horizon: int | float = 20,
    temperature: float = 1.0,
    discount: float = 1.0,
) -> TrajectoryModel:
    """Run a machine that wears, or replace it.

    Equipment replacement as in Puterman 1994, "Markov Decision Processes", chapter 4, and in Bertsekas 2005, "Dynamic
    Programming and Optimal Control", volume 1; the numbers are ours. In condition i (0 is new) a period
    of running pays income - operating_cost * i, and the machine gets worse by k grades with probability wear[k], down
    to the worst. To replace costs `replace_cost`, and the period is run with a new machine. The optimal policy is a
    control limit: replace from some condition on.

    Args:
        wear: probabilities of getting worse by 0, 1, 2, ... grades in a period.
        num_states: conditions, S >= 2.
        income: of a period, in reward units.
        operating_cost: of a period, for each grade of wear.
        replace_cost: of a new machine.
        horizon: T, in periods.
        temperature: alpha.
        discount: in (0, 1].
    """
    chances = as_distribution(wear, "wear")
    as_count(num_states, "num_states", 2)
    names = ["new", *(f"worn {i}" for i in range(1, num_states))]

    def run(condition: int, pays: float) -> Outcomes:
        return [(chance, names[min(condition + k, num_states - 1)], pays) for k, chance in enumerate(chances)]

    table = {
        name: {"run": run(i, income - operating_cost * i), "replace": run(0, income - replace_cost)}
        for i, name in enumerate(names)
    }
    mdp, reward = tabulate(table, names[0], regions={"worst": [num_states - 1]})
    return TrajectoryModel(mdp, reward, horizon, temperature, discount, name="machine")
