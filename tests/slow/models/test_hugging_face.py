"""Models of Hugging Face from a folder: classes, next tokens, adapters, tokenizers, refusals."""

import json
import re
import shlex
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from stand_ins import timm_stand_in
from tiny import TINY
from tiny_hub import save_bert, save_gpt2, save_tokenizer, save_vit
from tiny_labels import TINY_LABELS, TinyLabels
from tiny_text import TINY_TEXT

from fedkd.cli.commands import main
from fedkd.errors import SettingError
from fedkd.experiment.build import Experiment, build
from fedkd.experiment.export_model import export
from fedkd.experiment.resume import resume
from fedkd.experiment.run import execute, run
from fedkd.experiment.stored_run import StoredRun
from fedkd.federation.round_records import RoundRecord
from fedkd.models.adapted_images import PretrainedModel
from fedkd.models.adapters import Lora, SharedModel
from fedkd.models.hugging_face import hub_tokenizer
from fedkd.models.libraries import model_contents
from fedkd.report.folder import RunFolder
from fedkd.scenario.scenario import Scenario
from fedkd.tasks.text.corpus import embedded_corpus

pytest.importorskip("transformers")
pytest.importorskip("peft")
TEXTS = TinyLabels().load().texts
PAGE = (Path(__file__).parents[3] / "docs" / "extending.md").read_text()
SHORT = (
    *("rounds=1", "train.epochs=1", "distill.epochs=1", "baseline=none", "report.plots=false"),
    "report.console=false",
)
DP_SGD = {"name": "dp_sgd", "noise_multiplier": 1.0, "clip_norm": 1.0}


class Ended(Exception):
    pass


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of tiny models: two BERTs with different tokenizers, and GPT-2s."""
    folder = tmp_path_factory.mktemp("hub")
    save_bert(folder / "bert", TEXTS)
    save_bert(folder / "other", TEXTS[::2], hidden_size=24, num_labels=5)
    sentences = embedded_corpus(70).texts
    save_gpt2(folder / "gpt2", sentences)
    save_gpt2(folder / "wide", sentences, n_embd=24)
    save_gpt2(folder / "strange", sentences[:20])
    return folder


def made(base: dict[str, Any] = TINY_LABELS, **changes: Any) -> Experiment:
    return build(Scenario.parse({**base, **changes}), threading.Event())


def last_round(experiment: Experiment) -> RoundRecord:
    found: list[RoundRecord] = []
    execute(experiment, found.append, threading.Event())
    assert all(client.status == "ok" for client in found[-1].clients)
    return found[-1]


def test_classifiers_with_tokenizers_of_their_own_learn_beside_another_network(hub: Path) -> None:
    models = [f"hf:{hub / 'bert'}", f"hf:{hub / 'other'}", "bag"]
    experiment = made(models=models, clients=3, rounds=2)
    context = experiment.context
    ids = context.task.public_inputs
    assert ids.shape == (32, 3 * 8)
    bert = context.architectures[0].build(0).eval()
    with torch.no_grad():  # small as they are drawn, weights would hide what they read
        for name, parameter in bert.named_parameters():
            if "LayerNorm" not in name:
                parameter.mul_(10)
    few = ids[:4].clone()
    few[:, 4:8] = bert.padding
    moved = few.clone()
    moved[:, 8:] = 0
    assert torch.equal(bert(moved), bert(few))  # the columns of the others are not read
    beside = torch.cat([few[:1], ids[4:]])
    assert torch.allclose(bert(beside)[0], bert(few[:1])[0], atol=1e-5)  # nor is padding
    assert context.architectures[1].build(0)(ids).shape == (32, 2)  # a head of 2 for one of 5
    accuracies = [c.after_training.global_accuracy or 0 for c in last_round(experiment).clients]
    assert max(accuracies) > 0.6


def test_weights_are_those_of_the_folder_or_drawn_by_the_seed(hub: Path) -> None:
    name = "pretrained.bert.embeddings.word_embeddings.weight"
    loaded = made(models=[f"hf:{hub / 'bert'}"]).context.architectures[0]
    assert torch.equal(loaded.build(1).state_dict()[name], loaded.build(2).state_dict()[name])
    drawn = made(models=[f"hf:{hub / 'bert'}(pretrained=false)"]).context.architectures[0]
    one, two = drawn.build(1).state_dict()[name], drawn.build(2).state_dict()[name]
    assert not torch.equal(one, two)
    assert not torch.equal(one, loaded.build(1).state_dict()[name])


def test_a_baseline_is_made_again_where_the_files_of_a_model_changed(hub: Path) -> None:
    names = [f"hf:{hub / 'bert'}(pretrained=false)", "bag"]
    specs = made(models=names).context.architectures
    before, config = model_contents(specs), hub / "bert" / "config.json"
    assert list(before) == names[:1]
    config.touch()
    (hub / "bert" / "README.md").write_text("A note is no part of a model.")
    assert model_contents(specs) == before
    text = config.read_text()
    config.write_text(f"{text}\n")
    assert model_contents(specs) != before
    config.write_text(text)


def test_adapters_are_all_that_clients_train_keep_and_send(hub: Path) -> None:
    experiment = made(models=[f"hf:{hub / 'other'}"], adapters="lora", strategy="fedavg")
    context, spec = experiment.context, experiment.context.architectures[0]
    one, two = spec.build(1), spec.build(2)
    frozen, same = (
        dict(model.named_parameters())["pretrained.bert.pooler.dense.weight"]
        for model in (one, two)
    )
    assert frozen.data_ptr() == same.data_ptr()
    assert not frozen.requires_grad
    before = context.initial_state(0)
    kinds = {"lora_A": 2, "lora_B": 2, "classifier": 2}
    assert {kind: sum(kind in name for name in before) for kind in kinds} == kinds
    assert len(before) == sum(kinds.values())
    first, second = one.state_dict(), two.state_dict()
    assert all(torch.equal(first[n], second[n]) == ("lora_B" in n) for n in first)  # by the seed
    assert not any(first[name].any() for name in first if "lora_B" in name)
    sent = last_round(experiment).clients[0].bytes_up
    assert sent == 4 * sum(tensor.numel() for tensor in before.values())
    after = context.store.get(0)
    assert after is not None
    assert not any(torch.equal(after[name], before[name]) for name in before)


def test_an_output_tied_to_the_frozen_embedding_is_neither_kept_nor_sent(hub: Path) -> None:
    changes = {"models": [f"hf:{hub / 'gpt2'}"], "adapters": "lora", "tokens": {"context": 32}}
    model = made(TINY_TEXT, **changes).context.architectures[0].build(0)
    assert model.pretrained.lm_head.weight is model.pretrained.transformer.wte.weight
    assert all("lora_" in name for name in model.state_dict())


def test_a_run_with_adapters_goes_on_and_is_exported(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"models": [f"hf:{hub / 'bert'}"], "adapters": "lora", "rounds": 2}
    scenario = Scenario.parse({**TINY_LABELS, **changes})
    run(scenario, tmp_path / "whole")
    add_round = RunFolder.add_round

    def failing(self: RunFolder, row: Any, *rest: Any) -> None:
        add_round(self, row, *rest)
        if row["round"] == 2:
            raise Ended

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "add_round", failing)
        with pytest.raises(Ended):
            run(scenario, tmp_path / "parts")
    weights = hub / "bert" / "model.safetensors"
    stored_weights = weights.read_bytes()
    weights.write_bytes(stored_weights[:-4] + b"\x00\x00\x80?")
    with pytest.raises(
        SettingError, match=r"files or weights of models=hf:.*bert are no longer those that"
    ):
        resume(scenario, tmp_path / "parts")
    weights.write_bytes(stored_weights)
    summary = resume(scenario, tmp_path / "parts")
    assert summary["versions"].keys() >= {"transformers", "peft"}
    sums = [
        [json.loads(row)["knowledge_sha256"] for row in file.read_text().splitlines()]
        for file in (tmp_path / "whole" / "rounds.jsonl", tmp_path / "parts" / "rounds.jsonl")
    ]
    assert sums[0] == sums[1]
    folder = export(tmp_path / "whole", 0, tmp_path / "export", trust=True)
    names: dict[str, Any] = {"__file__": str(folder / "load_model.py"), "__name__": "loader"}
    exec((folder / "load_model.py").read_text(), names)
    model = names["load"]()
    ids = hub_tokenizer(str(hub / "bert")).encode_all(["the cat waits here"], 8)
    assert model(torch.tensor(ids)).shape == (1, 2)
    stored = torch.load(folder / "model.pt", weights_only=True)
    assert model.state_dict().keys() == stored.keys()
    assert all(torch.equal(model.state_dict()[name], stored[name]) for name in stored)


def test_adapters_of_an_image_model_are_trained_sent_and_exported(tmp_path: Path) -> None:
    changes = {"models": [f"hf:{save_vit(tmp_path / 'vit')}"], "adapters": "lora", "rounds": 1}
    scenario = Scenario.parse({**TINY, **changes, "strategy": "fedavg"})
    spec = build(scenario, threading.Event()).context.architectures[0]
    state, whole = spec.build(1).state_dict(), spec.build(2)
    assert all("lora_" in name or "classifier" in name for name in state)
    embedding = "pretrained.vit.embeddings.patch_embeddings.projection.weight"
    shared = [m.get_parameter(embedding).data_ptr() for m in (whole, spec.build(3))]
    assert shared[0] == shared[1]
    summary = run(scenario, tmp_path / "run")
    sent = 4 * sum(tensor.numel() for tensor in state.values())
    assert summary["bytes_up"] == 4 * sent  # four clients
    folder = export(tmp_path / "run", 0, tmp_path / "export", trust=True)
    names: dict[str, Any] = {"__file__": str(folder / "load_model.py"), "__name__": "loader"}
    exec((folder / "load_model.py").read_text(), names)
    assert names["load"]()(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_adapters_of_a_library_that_does_not_say_its_heads_are_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm", timm_stand_in([]))
    adapters = {"name": "lora", "layers": ["conv1"], "rank": 2}
    changes = {"models": ["timm:resnet18(pretrained=true)"], "adapters": adapters, "rounds": 1}
    run(Scenario.parse({**TINY, **changes}), tmp_path / "run")
    folder = export(tmp_path / "run", 0, tmp_path / "export", trust=True)
    names: dict[str, Any] = {"__file__": str(folder / "load_model.py"), "__name__": "loader"}
    exec((folder / "load_model.py").read_text(), names)
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(names["load"]()(images), StoredRun(tmp_path / "run").model(0)(images))


def test_adapters_go_into_the_linear_layers_that_a_library_calls() -> None:
    """PyTorch's own attention reads its layer's weights: an adapter there would do nothing."""
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = torch.nn.Sequential(layer, torch.nn.Flatten(), torch.nn.Linear(32, 3))
    model = Lora(rank=2).build(lambda: PretrainedModel(net, "2"), 0, SharedModel())
    model(torch.randn(2, 4, 8)).sum().backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[2] for name in trained} == {"linear1", "linear2", "weight", "bias"}
    assert all(p.grad is not None for p in trained.values())
    no_layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 3))
    with pytest.raises(SettingError, match="Sequential has none but its head; take a transformer"):
        Lora().build(lambda: PretrainedModel(no_layers, "1"), 0, SharedModel())


def test_members_are_inferred_of_clients_with_adapters(hub: Path, tmp_path: Path) -> None:
    changes = {"models": [f"hf:{hub / 'bert'}"], "adapters": "lora", "audit": "members"}
    found = run(Scenario.parse({**TINY_LABELS, **changes}), tmp_path)["audit"]
    assert found["candidates"] > 10
    assert 0 <= found["auc"] <= 1
    assert found["label_total_variation"] >= 0


def test_dp_sgd_trains_adapters_and_says_why_it_cannot_train_all(hub: Path) -> None:
    models = [f"hf:{hub / 'bert'}", f"hf:{hub / 'gpt2'}"]
    last_round(made(models=models, adapters="lora", privacy=DP_SGD, strategy="fedmd"))
    with pytest.raises(SettingError, match=r"position_embeddings.*without a batch dimension"):
        made(models=models[:1], privacy=DP_SGD, strategy="fedmd")


def test_language_models_of_one_tokenizer_exchange_next_tokens(hub: Path) -> None:
    tokens = {"context": 32}
    two = [f"hf:{hub / 'gpt2'}", f"hf:{hub / 'wide'}"]
    experiment = made(TINY_TEXT, models=[two[0], "gru_small"], tokens=tokens)
    assert experiment.context.task.classes == len(hub_tokenizer(str(hub / "gpt2")).tokenizer)
    last_round(experiment)
    with pytest.raises(SettingError, match=r"different tokenizers.*models of one family"):
        made(TINY_TEXT, models=[two[0], f"hf:{hub / 'strange'}"], tokens=tokens)
    with pytest.raises(SettingError, match=r"tokens.vocabulary=bytes would do nothing"):
        made(TINY_TEXT, models=two, tokens={**tokens, "vocabulary": "bytes"})


@pytest.mark.parametrize(
    ("model", "changes", "said"),
    [
        (
            "hf:nowhere",
            {},
            "models: hf:nowhere: no such folder; give a folder that save_pretrained",
        ),
        ("hf:{hub}", {}, "cannot be read: .*config.json"),
        ("hf:{hub}/bert", {"tokens": {"context": 64}}, "tokens.context=64 is more than .* most 16"),
        ("bag", {"adapters": "lora"}, "adapters=lora is for pre-trained models"),
        (
            "hf:{hub}/bert",
            {"adapters": {"name": "lora", "layers": ["x"]}},
            r"adapters.layers=\[x\] are no layers .* key, query, value",
        ),
        (
            "hf:{hub}/bert",
            {"adapters": {"name": "lora", "layers": ["query", "values"]}},
            r"adapters.layers=\[values\] are no layers .* key, query, value",
        ),
        (
            "hf:{hub}/bert",
            {"adapters": {"name": "lora", "layers": ["LayerNorm"]}},
            r"adapters.layers=\[LayerNorm\]: peft does not adapt .* of dense, key",
        ),
        (
            "hf:{hub}/gpt2",
            {"strategy": "fedproto", "rounds": 2},
            "needs the features of models.*no such layer",
        ),
        ("hf:{hub}/empty", {}, "has no tokenizer that can be read"),
        ("hf:{hub}/words", {}, "cannot be loaded|holds no weights"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    hub: Path, model: str, changes: dict[str, Any], said: str
) -> None:
    config = (hub / "bert" / "config.json").read_text()
    for name in ("empty", "words"):
        (hub / name).mkdir(exist_ok=True)
        (hub / name / "config.json").write_text(config)
    save_tokenizer(hub / "words", TEXTS)
    with pytest.raises(SettingError, match=said) as caught:
        made(**{"models": [model.format(hub=hub)], **changes})
    assert "\n" not in str(caught.value)


def test_the_files_of_the_page_are_written_and_learned_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"`make_files.py` writes.*?```python\n(.*?)```", PAGE, re.DOTALL)
    exec(code, {})
    commands = re.findall(r"^fedkd (run .*hf:tiny_bert.*)$", PAGE, re.MULTILINE)
    assert len(commands) == 2
    for i, command in enumerate(commands):
        assert main([*shlex.split(command), *SHORT, f"run_dir=run{i}"]) == 0
        assert json.loads(Path(f"run{i}/summary.json").read_text())["status"] == "completed"


def test_a_classifier_of_images_is_built_for_their_shape(tmp_path: Path) -> None:
    from transformers import ViTConfig

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ViTConfig(image_size=8, patch_size=4, num_channels=1, intermediate_size=16, **sizes)
    config.save_pretrained(tmp_path)
    digits = {"data": "digits", "clients": 2, "models": [f"hf:{tmp_path}(pretrained=false)"]}
    spec = made({"name": "digits", "public": {"size": 20}, **digits}).context.architectures[0]
    assert spec.build(0)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
