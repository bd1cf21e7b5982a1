"""Small work takes one thread, unless a user has chosen how many."""

import pytest
import torch

from molflow.energies import mcmc
from molflow.threads import chosen_threads, limited_threads, threads_for

FEW, MANY = 1000, 10**6


@pytest.mark.parametrize(("numbers", "expected"), [(FEW, 1), (MANY, 2)])
def test_small_work_takes_one_thread(numbers, expected):
    before = torch.get_num_threads()
    with limited_threads(2):
        with threads_for(numbers):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("numbers", [FEW, MANY])
def test_a_number_that_was_chosen_stays(numbers):
    before = torch.get_num_threads()
    with chosen_threads(3), threads_for(numbers):
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before
    with limited_threads(2), threads_for(FEW):
        assert torch.get_num_threads() == 1


@pytest.mark.parametrize(("words", "expected"), [((), 1), (("--threads", 3), 3)], ids=("automatic", "given"))
def test_a_command_draws_a_chain_with_the_threads_that_it_is_given(
    molflow, few_particles, tmp_path, monkeypatch, words, expected
):
    used, energy_and_gradient = set(), mcmc.energy_and_gradient

    def watched(*arguments):
        used.add(torch.get_num_threads())
        return energy_and_gradient(*arguments)

    monkeypatch.setattr(mcmc, "energy_and_gradient", watched)
    monkeypatch.setenv("MOLFLOW_CACHE", str(tmp_path / "cache"))
    with limited_threads(2):
        assert molflow("data", "dw4", *words)[0] == 0
    assert used - {2} == {expected}  # the energies of the start are computed before the chain
