"""Reports: one self-contained HTML page, its figures as PNG and SVG, its tables as CSV, and the table on the terminal.

A page needs no network, prints well and reads on a phone. It is made of sections, which commands add at their own time:
the page of the influences is drawn from `Content`, what other studies of the run found from dataclasses of their own.

    path = jdt.report.write_report(pathlib.Path("runs/demo/report.html"), content)
    jdt.report.write_figures(path.parent / "figures", content)   # write_report has done this already
    jdt.report.add_counterfactual("runs/demo", curves)   # likewise add_bias, add_noise, add_pretraining, ...
    rich.print(jdt.report.findings_table(content.targets[0]))
"""

from jdt.report.bias import add_bias as add_bias
from jdt.report.bias_content import Bias as Bias
from jdt.report.bias_content import BiasBar as BiasBar
from jdt.report.bias_content import BiasCurve as BiasCurve
from jdt.report.bias_content import BiasHistogram as BiasHistogram
from jdt.report.bias_content import BiasStrip as BiasStrip
from jdt.report.blocks import Section as Section
from jdt.report.cases import add_cases as add_cases
from jdt.report.content import DIFFERENCE as DIFFERENCE
from jdt.report.content import SHARE as SHARE
from jdt.report.content import Case as Case
from jdt.report.content import Content as Content
from jdt.report.content import Counterfactual as Counterfactual
from jdt.report.content import EstimatorFindings as EstimatorFindings
from jdt.report.content import Figure as Figure
from jdt.report.content import Mover as Mover
from jdt.report.content import PlantedTruth as PlantedTruth
from jdt.report.content import Suspect as Suspect
from jdt.report.content import Suspects as Suspects
from jdt.report.content import TargetFindings as TargetFindings
from jdt.report.curves import add_counterfactual as add_counterfactual
from jdt.report.figures import write_figures as write_figures
from jdt.report.grids import case_grid as case_grid
from jdt.report.grids import case_table as case_table
from jdt.report.grids import suspects_grid as suspects_grid
from jdt.report.grids import suspects_table as suspects_table
from jdt.report.noise import add_noise as add_noise
from jdt.report.noise_content import Noise as Noise
from jdt.report.noise_content import NoiseAblation as NoiseAblation
from jdt.report.noise_content import NoiseBar as NoiseBar
from jdt.report.noise_content import NoiseFractions as NoiseFractions
from jdt.report.noise_content import NoiseRanking as NoiseRanking
from jdt.report.noise_content import NoiseScatter as NoiseScatter
from jdt.report.noise_content import NoiseSet as NoiseSet
from jdt.report.noise_content import NoiseSpectrum as NoiseSpectrum
from jdt.report.noise_content import NoiseSuspect as NoiseSuspect
from jdt.report.noise_content import NoiseSuspects as NoiseSuspects
from jdt.report.noise_content import NoiseTuning as NoiseTuning
from jdt.report.noise_content import NoiseUnit as NoiseUnit
from jdt.report.page import add_section as add_section
from jdt.report.page import renew_report as renew_report
from jdt.report.page import write_report as write_report
from jdt.report.plots import KIND_COLOURS as KIND_COLOURS
from jdt.report.plots import drawing as drawing
from jdt.report.plots import png_bytes as png_bytes
from jdt.report.pretraining import add_pretraining as add_pretraining
from jdt.report.pretraining_content import Pretraining as Pretraining
from jdt.report.pretraining_content import PretrainingAccuracy as PretrainingAccuracy
from jdt.report.pretraining_content import PretrainingGain as PretrainingGain
from jdt.report.pretraining_content import PretrainingGap as PretrainingGap
from jdt.report.pretraining_content import PretrainingOptimism as PretrainingOptimism
from jdt.report.pretraining_content import PretrainingRanked as PretrainingRanked
from jdt.report.pretraining_content import PretrainingRanking as PretrainingRanking
from jdt.report.pretraining_content import PretrainingReference as PretrainingReference
from jdt.report.pretraining_content import PretrainingSize as PretrainingSize
from jdt.report.pretraining_content import PretrainingSource as PretrainingSource
from jdt.report.pretraining_content import PretrainingSpread as PretrainingSpread
from jdt.report.pretraining_content import PretrainingStability as PretrainingStability
from jdt.report.pretraining_content import PretrainingZeroShot as PretrainingZeroShot
from jdt.report.pretraining_terminal import ranking_table as ranking_table
from jdt.report.pretraining_terminal import shots_table as shots_table
from jdt.report.requirements import Requirement as Requirement
from jdt.report.summary import evidence_words as evidence_words
from jdt.report.suspects import add_suspects as add_suspects
from jdt.report.terminal import findings_table as findings_table
from jdt.report.thumbnails import sample_images as sample_images
from jdt.report.thumbnails import strip_png as strip_png
from jdt.report.words import baseline_words as baseline_words
from jdt.report.words import metric_words as metric_words
