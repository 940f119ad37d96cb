#!/bin/sh
# version: pymoo 0.6.2, numpy 2.4.6
# guess: a problem that declares vtype=int is searched in whole numbers; or the algorithm refuses it.
# what happens: with NSGA2 as it comes, every proposal and the whole front hold fractions. IntegerRandomSampling mends
#     the first generation only. Crossover and mutation need a RoundingRepair each; nothing warns. Where the objective
#     rounds down by itself, 30 of 400 evaluations repeat one that was made, because duplicates are told apart by their
#     fractions; with the repairs none does.
# why it matters: schedules are whole numbers (tokens to drop in each block), and int(1.9) hides the fraction. Every
#     evaluation is a run over the validation images, and the front that comes out holds points that nobody measured.
# known: anyoptimization/pymoo#115 (closed: the declaration does not change the algorithm; its guide shows the repairs).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 pymoo==0.6.2
"$folder/venv/bin/python" - <<'EOF'
from importlib.metadata import version

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import ElementwiseProblem
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize


class Schedules(ElementwiseProblem):
    """Tokens to drop in each of 12 blocks, from 0 to 16: few left, and little lost."""

    def __init__(self) -> None:
        super().__init__(n_var=12, n_obj=2, xl=0, xu=16, vtype=int)
        self.asked = []

    def _evaluate(self, x, out, *args, **kwargs):
        self.asked.append(np.array(x, float))
        dropped = np.floor(self.asked[-1])
        out["F"] = [-dropped.sum(), (dropped**2 * np.arange(12, 0, -1)).sum()]


print("pymoo", version("pymoo"))
whole = {"crossover": SBX(repair=RoundingRepair()), "mutation": PM(repair=RoundingRepair())}
settings = {"as it comes": {}, "integer sampling": {"sampling": IntegerRandomSampling()}}
settings["sampling and repairs"] = {"sampling": IntegerRandomSampling(), **whole}
seen = {}
for name, options in settings.items():
    problem = Schedules()
    result = minimize(problem, NSGA2(pop_size=20, **options), ("n_gen", 20), seed=1, verbose=False)
    asked = np.array(problem.asked)
    distinct = len(np.unique(np.floor(asked), axis=0))
    seen[name] = [float((asked % 1).any(1).mean()), float((np.asarray(result.X, float) % 1).any(1).mean())]
    print(f"{name}: {seen[name][0]:.0%} of {len(asked)} proposals hold fractions,", end=" ")
    print(f"{seen[name][1]:.0%} of the front; {distinct} distinct after rounding down")
first, second, third = seen.values()
raise SystemExit(not (first == [1, 1] and second[0] > 0.8 and second[1] > 0.5 and third == [0, 0]))
EOF
