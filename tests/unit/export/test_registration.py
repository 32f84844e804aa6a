"""What `import secateur` tells transformers holds in other processes too."""

import pickle
import subprocess
import sys

from secateur.export.registration import define_classes

SIZES = {
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "vocab_size": 32,
}


def test_a_config_goes_to_a_process_that_has_loaded_no_checkpoint(tmp_path):
    """As servers send it to their workers."""
    config = define_classes("secateur_llama")(
        **SIZES, per_layer_config={"0": {"intermediate_size": 8}, "1": {"skip": ["attention"]}}
    )
    (tmp_path / "config").write_bytes(pickle.dumps(config))  # as vLLM hands configs to its processes
    read = (
        "import pickle, sys; from pathlib import Path; config = pickle.loads(Path(sys.argv[1]).read_bytes()); "  # ours
    )
    say = "print([(layer.intermediate_size, layer.skip) for layer in config.per_layer_config])"
    completed = subprocess.run(
        [sys.executable, "-c", read + say, tmp_path / "config"], capture_output=True, text=True, check=False
    )
    assert completed.stdout.strip() == "[(8, []), (32, ['attention'])]", completed.stderr
