"""The measures: one file each, and the registry they join.

A measure sees small arrays (`TensorStatistics`, or the result of a complexity search), never a file and never a whole
tensor, and answers with named numbers. To add one: a file here, a test, a row in docs/measures.md.
"""

from .base import (
    ANALYZERS,
    RELATIVE_STEPS,
    Analyzer,
    TensorAnalyzer,
    TensorStatistics,
    TensorValues,
    analyzer,
    unit_of,
)
from .complexity import ComplexityAnalyzer
from .entropy import EntropyAnalyzer
from .norms import NormsAnalyzer
from .spectrum import SpectrumAnalyzer
