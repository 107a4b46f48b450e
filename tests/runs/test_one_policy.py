"""How many models a process holds from one arm to the next."""

import gc

from command_line import harness

from harness.runs.arm import Arm

NAME = "LlamaForCausalLM"


def test_an_arm_leaves_only_the_base_model_in_memory(tmp_path, monkeypatch):
    run, left = Arm.run, []
    others = {id(each) for each in gc.get_objects() if type(each).__name__ == NAME}

    def counted(arm, inputs):
        run(arm, inputs)
        models = [each for each in gc.get_objects() if type(each).__name__ == NAME]
        left.append(len([each for each in models if id(each) not in others]))

    monkeypatch.setattr(Arm, "run", counted)
    harness(
        *("run", "--method", "dpo,ipo", "--benchmark", "math", "--limit", 4, "--budget", "2e10"),
        *("--ledger", "nominal"),
        cwd=tmp_path,
    )
    assert left == [1, 1, 1]
