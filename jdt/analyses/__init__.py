"""Analyses: what influences are good for, as pure functions of arrays."""

from jdt.analyses.counterfactual import Halves as Halves
from jdt.analyses.counterfactual import Removals as Removals
from jdt.analyses.counterfactual import accuracy_curves as accuracy_curves
from jdt.analyses.counterfactual import counts_of as counts_of
from jdt.analyses.counterfactual import halves as halves
from jdt.analyses.counterfactual import mean_interval as mean_interval
from jdt.analyses.counterfactual import removal_orders as removal_orders
from jdt.analyses.counterfactual import removals as removals
