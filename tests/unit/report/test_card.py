import yaml

from secateur.config import RunConfig, to_yaml
from secateur.export.checkpoint import express
from secateur.report.card import model_card
from secateur.report.record import BudgetUse


def card(report, prepared):
    form = express(prepared.dense, report.choice.architecture, "bfloat16")
    return model_card("tiny-llama", form, report.rows, report.choice, "bfloat16", to_yaml(RunConfig()))


def test_the_line_that_loads_the_folder_comes_first(report, prepared):
    text = card(report, prepared)
    loading = 'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder", trust_remote_code=True)'
    assert 0 < text.index(loading) < text.index("# tiny-llama")
    assert "ships `modeling_secateur.py`" in text


def test_the_front_matter_is_yaml(report, prepared):
    front = card(report, prepared).split("---")[1]
    assert yaml.safe_load(front) == {"library_name": "transformers", "tags": ["pruned", "secateur"]}


def test_rows_layers_and_configuration_are_all_there(report, prepared):
    text = card(report, prepared)
    for row in report.rows:
        assert f"| {row.name} | {row.cost.decoder_parameters:,} |" in text
    assert "| 0 | 3 of 4 | 24 of 48 |" in text
    assert "| 1 | 0 of 4 | 48 of 48 |" in text
    made_with = text.split("```yaml\n")[1].split("```")[0]
    assert RunConfig.model_validate(yaml.safe_load(made_with)) == RunConfig()
    share = report.row("secateur").cost.decoder_parameters / report.row("dense").cost.decoder_parameters
    assert f"# tiny-llama, pruned to {share:.1%} of its decoder parameters" in text


def test_limits_of_another_kind_are_named_with_what_is_used_of_them(report, prepared):
    form = express(prepared.dense, report.choice.architecture, "bfloat16")
    use = BudgetUse(name="kv_cache_bytes_per_token", ceiling=256, used=224, dense=384)
    text = model_card("tiny", form, report.rows, report.choice, "bfloat16", to_yaml(RunConfig()), (use,))
    assert "Of its budget it uses 224 of 256 bytes of KV cache per token (dense: 384)." in text
    assert "Of its budget" not in card(report, prepared)


def test_whole_experts_are_called_so(report, prepared):
    form = express(prepared.dense, report.choice.architecture, "bfloat16")
    text = model_card("tiny", form, report.rows, report.choice, "bfloat16", to_yaml(RunConfig()), whole_experts=True)
    assert "| layer | KV heads | experts |" in text
    assert "| layer | KV heads | FFN width |" in card(report, prepared)
