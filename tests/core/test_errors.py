from harness.errors import UserError, unknown_name


def test_the_nearest_name_is_suggested():
    error = unknown_name("method", "self-rewardin", ["sso", "dpo", "self-rewarding"])
    assert isinstance(error, UserError)
    assert str(error) == "unknown method 'self-rewardin': did you mean 'self-rewarding'?"


def test_all_names_are_listed_where_none_is_near():
    assert str(unknown_name("method", "ppo2000x", ["sso", "dpo"])) == "unknown method 'ppo2000x': known: dpo, sso"


def test_names_may_be_any_iterable():
    assert "did you mean 'math'" in str(unknown_name("benchmark", "maths", (name for name in ("math", "mt-bench"))))
