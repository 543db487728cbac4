"""Settings by name: each number of a gateway, and none that is not."""

from __future__ import annotations

import pytest

from cluster.gateway_config import GatewayConfig
from cluster.gateway_limits import DEFAULT_LIMITS
from cluster.gateway_settings import with_settings
from colbert_core.errors import InvalidInput

NOTHING = GatewayConfig(port=7)


def test_each_value_goes_where_its_name_is() -> None:
    config, limits = with_settings(
        ["max_k=100", "client_qps=2.5", "hedge_budget=0", "max_k=50"], NOTHING, DEFAULT_LIMITS
    )
    assert (limits.max_k, config.client_qps, config.tail.hedge_budget) == (50, 2.5, 0.0)
    assert config.port == 7
    assert limits.max_batch == DEFAULT_LIMITS.max_batch
    assert with_settings([], NOTHING, DEFAULT_LIMITS) == (NOTHING, DEFAULT_LIMITS)


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("max_kk=1", "'max_kk=1' is none: give NAME=VALUE with one of answer_cache_bytes, "),
        ("max_k", "'max_k' is none"),
        ("port=1", "'port=1' is none"),
        ("tls=1", "'tls=1' is none"),
        ("max_k=ten", "max_k is 'ten'; give a whole number"),
        ("max_k=1.5", "max_k is '1.5'; give a whole number"),
        ("client_qps=x", "client_qps is 'x'; give a number"),
        ("client_qps=nan", "client_qps is nan"),
        ("max_k=20000", "max_k is 20000; give 1 to 10,000"),
        ("max_filter_depth=33", "max_filter_depth is 33; give 1 to 32"),
        ("encode_batch=0", "encode_batch is 0; give 1 or more"),
        ("eject_after=0", "eject_after is 0; give 1 or more"),
    ],
)
def test_a_setting_that_is_none_is_refused(setting: str, part: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        with_settings([setting], NOTHING, DEFAULT_LIMITS)
    assert part in str(caught.value)
