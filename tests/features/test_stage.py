"""What decides what features are is recorded, and refused where it would be mixed."""

from pathlib import Path

import pytest

from orchard.errors import SettingsChanged
from orchard.features.stage import refuse_changes
from orchard.output import Output


def test_an_output_of_before_there_was_a_choice_has_the_networks_own_input_size(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    with output.writing():
        output.commit({}, properties={"identity": {"backbone": "EfficientNetB1", "precision": "float32"}})
    refuse_changes(output, {"backbone": "EfficientNetB1", "input_size": 240})
    with pytest.raises(SettingsChanged, match="was made with input_size 240 and would be mixed with 128"):
        refuse_changes(output, {"backbone": "EfficientNetB1", "input_size": 128})
