"""Break the code in one place, see the named test fail, for each law: `python tests/mutations.py [WORD]`.

Each row is a file, a piece of it, what replaces it, and the test that must then fail: with the cases of the fast tier, or
else with those of all tests. The work is done in copies, on one core each. The script ends 1 when a test survives its
mutation, or when a row no longer fits the code.
"""

import collections
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent import futures

from jaxcnn import environment

ROOT = pathlib.Path(__file__).resolve().parent.parent

ROWS = [
    # floors
    ("jaxcnn/losses.py", "import jax\n", "import jax\n\nimport jaxcnn.optim\n", "test_laws.py::test_imports_look_down"),
    ("jaxcnn/tree.py", "def digest(", "def late():\n    import jaxcnn.loop\n\n\ndef digest(", "test_laws.py::test_imports_look_down"),
    ("jaxcnn/errors.py", "def nearest(", "def late():\n    import jaxcnn.config\n\n\ndef nearest(", "test_laws.py::test_there_is_no_import_cycle"),
    # purity
    ("jaxcnn/rng.py", "key(seed)", "key(__import__('random').getrandbits(31))", "test_laws.py::test_purity_same_config_same_digest"),
    ("jaxcnn/step.py", 'rng.key(seed, "dropout", state.step)', 'rng.key(seed, "dropout", 0)', "test_laws.py::test_golden_first_losses"),
    ("jaxcnn/data/resident.py", "in range(start, 2**62", "in range(0, 2**62", "test_laws.py::test_purity_stop_and_resume_equals_never_having_stopped"),
    ("jaxcnn/data/order.py", "position = step * batch_size + ", "position = ", "test_laws.py::test_purity_stop_and_resume_equals_never_having_stopped"),
    ("jaxcnn/checkpoint.py", "[flat[name] for name in _state_order(abstract)]", "[flat[name] if not name.startswith('opt_state') else jax.numpy.zeros_like(flat[name]) for name in _state_order(abstract)]", "test_laws.py::test_purity_stop_and_resume_equals_never_having_stopped"),
    ("jaxcnn/writers.py", 'if row["step"] <= step]', "]", "test_writers.py::test_rows_after_the_checkpoint_are_cut_off"),
    ("jaxcnn/data/resident.py", "self._put(index_B.astype(np.int32)), self", "self._put((index_B + len(self._rows.device_set)).astype(np.int32)), self", "test_laws.py::test_purity_one_and_eight_devices_agree"),
    # several updates in a call
    ("jaxcnn/execution.py", "all(done % number for number in every)", "True", "test_execution.py::test_a_call_ends_with_its_group_and_where_something_is_due"),
    ("jaxcnn/execution.py", 'example_B = group["example"][place]', 'example_B = group["example"][0]', "test_execution.py::test_updates_in_one_call_are_those_of_single_calls"),
    ("jaxcnn/execution.py", "jax.jit(update, donate_argnums=0,", "jax.jit(update,", "test_execution.py::test_a_call_takes_the_memory_of_the_state"),
    ("jaxcnn/data/resident.py", "range(start - start % size,", "range(start,", "test_execution.py::test_a_call_ends_with_its_group_and_where_something_is_due"),
    ("jaxcnn/writers.py", "values[(step - 1) % len(values)]", "values[step % len(values)]", "test_execution.py::test_the_bad_update_of_a_call_is_named"),
    ("jaxcnn/bench/model.py", "split, task.config, 0, steps, size", "split, task.config, 0, 1, size", "test_execution.py::test_bench_times_the_updates_of_calls"),
    # compilation ahead
    ("jaxcnn/ahead.py", "    thread = Thread", "    return train_step\n    thread = Thread", "test_step.py::test_an_update_compiled_ahead_is_the_same_and_its_call_compiles_nothing"),
    ("jaxcnn/loop.py", "if not saved or saved[-1] < total:", "if True:", "test_step.py::test_a_run_compiles_while_it_reads_and_not_when_it_is_complete"),
    ("jaxcnn/cli/main.py", ".is_compiling():", ".is_compiling() and False:", "reliability/test_stops.py::test_a_stop_does_not_wait_for_a_compilation"),
    # counts
    ("jaxcnn/models/lenet.py", 'conv(16, "conv2")', 'conv(15, "conv2")', "test_models.py::test_counts"),
    ("jaxcnn/models/lenet.py", "[0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1, 1, 0, 1]", "[0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1]", "test_models.py::test_lenet5_1998_has_the_papers_layers"),
    ("jaxcnn/complexity.py", "math.prod(left.shape[axis] for axis in contracted)", "1", "test_models.py::test_counts"),
    # golden
    ("jaxcnn/nn/init.py", "initializers.glorot_uniform()", "initializers.glorot_normal()", "test_laws.py::test_golden_first_losses"),
    ("jaxcnn/losses.py", "log_p_BK = jax.nn.log_softmax(", "log_p_BK = 1.001 * jax.nn.log_softmax(", "test_laws.py::test_golden_first_losses"),
    # experiments
    ("experiments/mlp_mnist.py", '"mlp"', '"lenet5"', "test_laws.py::test_every_experiment_builds"),
    ("experiments/lenet_mnist.py", "image_size=32", "image_size=28", "test_laws.py::test_every_experiment_builds"),
    # exact evaluation
    ("jaxcnn/data/order.py", "range(0, num_examples, batch_size)", "range(0, num_examples - batch_size + 1, batch_size)", "test_metrics.py::test_evaluation_is_exact_for_any_batch_and_device_count"),
    ("jaxcnn/metrics.py", "jnp.sum(real_B & (rank_B < 1)", "jnp.sum((rank_B < 1)", "test_metrics.py::test_masked_rows_do_not_count"),
    # believing a checkpoint
    ("jaxcnn/checkpoint.py", 'tree.digest(arrays) != meta.digest', "False", "test_checkpoint.py::test_a_flipped_bit_in_an_array_is_found"),
    ("jaxcnn/checkpoint.py", "sealed(meta)[\"seal\"] == seal", "True", "test_checkpoint.py::test_an_altered_description_is_found"),
    ("jaxcnn/tree.py", "return total(bits * (2 * index + 1)), total(bits * ((mixed ^ (mixed >> 12)) | 1))", "return total(bits), total(bits)", "test_checkpoint.py::test_digest_sees_every_bit"),
    # layers
    ("jaxcnn/nn/functional.py", "(p + 1) // 2, p // 2", "p // 2, (p + 1) // 2", "test_functional.py::test_total_padding_puts_the_odd_row_on_top"),
    ("jaxcnn/nn/layers.py", "batch_variance * (count / max(count - 1, 1))", "batch_variance", "test_functional.py::test_batch_norm_layer_moves_its_statistics_as_torch_does"),
    ("jaxcnn/nn/pooling.py", "functools.reduce(lambda a, b: jnp.where((a >= b) | jnp.isnan(a), a, b), parts)", "jnp.max(jnp.stack(parts), axis=0)", "test_functional.py::test_max_pool_of_blocks_propagates_nan_and_gives_ties_to_the_first"),
    ("jaxcnn/nn/layers.py", "batch_mean.mean(axis=0), unbiased.mean(axis=0)", "batch_mean[0], unbiased[0]", "test_functional.py::test_ghost_batch_norm_is_batch_norm_of_each_part"),
    ("jaxcnn/nn/functional.py", "x.shape if shape is None else shape", "x.shape", "test_functional.py::test_stochastic_depth_drops_whole_images"),
    # networks
    ("jaxcnn/models/resnet.py", "y = s.norm(\"bn3\", last=True)(s.conv(4", "y = s.norm(\"bn3\", last=True)(s.conv(2", "test_models.py::test_counts[resnet50]"),
    ("jaxcnn/models/densenet.py", "nn.init.he_fan_in", "nn.init.he_fan_out", "test_models.py::test_initialisation_is_the_papers"),
    ("jaxcnn/models/alexnet.py", "conv(x, 5, 3, ones", "conv(x, 5, 3, zeros", "test_models.py::test_biases_of_the_published_alexnet"),
    ("jaxcnn/models/intermediate.py", "return max(stage, key=", "return min(stage, key=", "test_complexity.py::test_a_stage_is_its_last_block"),
    ("jaxcnn/receptive.py", "(extent - 1 - before) * jump", "(extent - before) * jump", "test_complexity.py::test_receptive_fields"),
    ("jaxcnn/receptive.py", 'field.windowed(axis, 1, stride, -start)', 'field.windowed(axis, 1, 1, -start)', "test_complexity.py::test_receptive_field_is_where_the_gradient_is"),
    ("jaxcnn/interop/torch_weights.py", "jnp.array(found[key]", "jnp.asarray(found[key]", "test_interop.py::test_weights_are_copied"),
    ("jaxcnn/interop/torch_names.py", 'ours.endswith("/fc1")', 'ours.endswith("/fc9")', "test_interop.py::test_auxiliary_heads_of_googlenet"),
    # augmentation
    ("jaxcnn/augment/pipeline.py", 'rng.key(seed, "augment", step)', 'rng.key(seed, "augment", 0)', "test_laws.py::test_golden_first_losses[lenet5]"),
    ("jaxcnn/augment/pipeline.py", 'rng.key(seed, "alternating_flip")', "key", "test_augment.py::test_alternating_flips_follow_from_seed_example_and_epoch_not_from_the_step"),
    ("jaxcnn/augment/geometry.py", "toss_B + epoch_B.astype(jnp.uint32)", "toss_B + epoch_B.astype(jnp.uint32) // 2", "test_augment.py::test_alternating_flips_show_both_sides_in_any_two_epochs"),
    ("jaxcnn/augment/geometry.py", "corner = pad + choice", "corner = pad - choice", "test_augment.py::test_whole_pixels_move_as_numpy_moves_them_and_as_the_resampling_does"),
    ("jaxcnn/augment/geometry.py", "(x + 0.5) * (high", "x * (high", "test_augment.py::test_a_crop_is_cut_out_and_scaled_as_torchvision_does"),
    ("jaxcnn/augment/pipeline.py", "geometry.is_whole(config):", "False:", "test_augment.py::test_a_flip_alone_is_a_select_and_a_crop_does_no_arithmetic"),
    ("jaxcnn/augment/boxes.py", "first = jnp.argmax(fits, axis=1)", "first = jnp.argmin(fits, axis=1)", "test_augment.py::test_resized_crops_are_distributed_as_torchvisions"),
    ("jaxcnn/augment/boxes.py", "row < bottom", "row <= bottom", "test_augment_values.py::test_cutout_blacks_out_exactly_the_stated_square"),
    ("jaxcnn/augment/crop.py", "min(size) / side", "side / side", "test_augment.py::test_scale_jitter_takes_the_part_that_the_crop_is_of_the_resized_image"),
    ("jaxcnn/augment/colour.py", "minimum(place, 4 - place)", "minimum(place, 3 - place)", "test_augment_values.py::test_hue_is_colorsys"),
    ("jaxcnn/augment/colour.py", "jnp.mean(luma(x)", "jnp.mean(x", "test_augment_values.py::test_colours_change_as_torchvisions"),
    ("jaxcnn/augment/policy.py", "+ 4 * x", "+ 5 * x", "test_augment_values.py::test_operations_are_torchvisions"),
    ("jaxcnn/augment/policy.py", "(1, 2, 3)", "(1, 3, 2)", "test_augment_values.py::test_each_image_gets_its_own_operations_in_order"),
    ("jaxcnn/augment/tables.py", "below - counts_BC + step", "below + step", "test_augment_values.py::test_operations_are_pillows"),
    ("jaxcnn/augment/erase.py", "_RATIO = (1 / 3.3, 1 / 0.3)", "_RATIO = (1.0, 1.0)", "test_augment_values.py::test_rectangles_are_distributed_as_torchvisions"),
    ("jaxcnn/augment/mix.py", "weight * (1 - boxes.share(choice.box, size))", "weight", "test_augment_pipeline.py::test_the_weight_of_cutmix_is_the_share_of_pixels"),
    ("jaxcnn/losses.py", "* first_B + (1 -", "* first_B + (0 -", "test_augment_pipeline.py::test_the_loss_of_mixed_labels_is_that_of_mixed_one_hot_labels"),
    ("jaxcnn/step.py", "mixed_cross_entropy(logits, batch,", "mixed_cross_entropy(logits, {'label': batch['label']},", "test_augment_pipeline.py::test_the_update_learns_from_mixed_labels"),
    ("jaxcnn/step.py", "mix.main_label(batch)", 'batch["label"]', "test_augment_pipeline.py::test_the_update_learns_from_mixed_labels"),
    ("jaxcnn/data/order.py", "(position // np.uint64(num_examples))", "(position // np.uint64(num_examples + 1))", "test_augment_pipeline.py::test_batches_say_which_example_and_which_epoch"),
    # transfer
    ("jaxcnn/transfer.py", "if name in weights else leaf", "if False else leaf", "test_transfer.py::test_a_run_starts_from_anothers_best_weights"),
    ("jaxcnn/transfer.py", "if name not in head", "if name in head", "test_transfer.py::test_the_head_is_made_anew_for_other_classes"),
    ("jaxcnn/step.py", "with linen.intercept_methods(_with_frozen_moments(freeze)):", "if True:", "test_transfer.py::test_frozen_layers_stay_and_use_their_running_moments"),
    ("jaxcnn/step.py", "p if stays else p -", "p -", "test_transfer.py::test_layers_that_are_frozen_on_resume_stay_though_their_momentum_is_not_zero"),
    ("jaxcnn/step.py", "aux_weight * sum(", "sum(", "test_transfer.py::test_auxiliary_heads_count_three_tenths"),
    ("jaxcnn/interop/files.py", "weights_only=True)", "weights_only=False)", "test_transfer.py::test_pth_is_read_without_running_it"),
    ("jaxcnn/plan.py", "stats.output_size_in_bytes - stats.alias_size_in_bytes", "stats.output_size_in_bytes", "test_plan.py::test_a_plan_of_a_tiny_run"),
    ("jaxcnn/plan.py", "3 * 2 * num_macs", "2 * num_macs", "test_plan.py::test_a_plan_of_a_tiny_run"),
    # a NaN is never saved; a stop is heard
    ("jaxcnn/writers.py", 'if bad := int(sums["nonfinite"]):', 'if (bad := int(sums["nonfinite"])) > 9:', "test_cli.py::test_nan_ends_with_5_at_its_step_and_is_not_saved"),
    ("jaxcnn/writers.py", "self._in_a_row = 0\n        count", "count", "test_writers.py::test_skipped_updates_are_counted_over_stops_and_the_eleventh_in_a_row_ends_the_run"),
    ("jaxcnn/step.py", "grad_norm, params, batch_stats]", "grad_norm, params]", "reliability/test_nonfinite.py"),
    ("jaxcnn/step.py", "jnp.where(nonfinite == 0, new, old)", "new", "reliability/test_nonfinite.py"),
    ("jaxcnn/loop.py", "fingerprints.get(split, old) != old}", "False}", "reliability/test_changes.py::test_a_resumed_run_refuses_other_data_and_touches_nothing"),
    ("jaxcnn/data/source.py", "crc = zlib.crc32(str(label).encode(), crc)", "pass", "reliability/test_changes.py::test_a_resumed_run_refuses_other_data_and_touches_nothing"),
    ("jaxcnn/watchdog.py", "self._waited += min(", "self._waited += 0 * min(", "reliability/test_watchdog.py::test_what_is_read_slowly_is_not_taken_for_what_hangs"),
    ("jaxcnn/watchdog.py", "min(now - last, 2 * _TICK_SECONDS)", "now - last", "reliability/test_watchdog.py::test_a_process_that_was_stopped_itself_is_not_taken_for_one_that_hangs"),
    ("jaxcnn/nn/canonical.py", "w[::-1, ::-1].transpose", "w.transpose", "test_convolution.py::test_every_way_gives_the_product_by_its_definition"),
    ("jaxcnn/nn/apart.py", 'inlineable="false"', 'inlineable="true"', "test_convolution.py::test_what_is_apart_is_computed_once_for_all_its_users"),
    ("jaxcnn/nn/winograd.py", "in _elements(w)[::-1]]", "in _elements(w)]", "test_convolution.py::test_every_way_gives_the_product_by_its_definition"),
    ("jaxcnn/nn/winograd.py", "(0, -n % form.m)", "(0, n % form.m)", "test_convolution.py::test_every_way_gives_the_product_by_its_definition"),
    ("jaxcnn/nn/winograd.py", "[c if d > 0 else -c", "[c if d > 0 else c", "test_convolution.py::test_every_way_gives_the_product_by_its_definition"),
    ("jaxcnn/nn/winograd.py", "_elementwise(operator.add, total, of_slice", "_elementwise(lambda a, b: b, total, of_slice", "test_convolution.py::test_images_go_through_winograd_in_slices"),
    ("jaxcnn/nn/channelwise.py", "lambda g, x: inner(x, g)", "lambda g, x: inner(x, x)", "test_functional.py::test_products_per_channel_have_the_derivatives_of_their_definitions"),
    ("jaxcnn/nn/channelwise.py", "_TOGETHER = 8", "_TOGETHER = 1", "test_functional.py::test_pixels_are_summed_without_an_array_of_their_products"),
    ("jaxcnn/nn/channelwise.py", "jnp.sum(jnp.sum(rows, axis=0)", "jnp.sum(jnp.sum(rows[:1], axis=0)", "test_functional.py::test_the_gradient_of_a_bias_is_the_sum_over_its_pixels"),
    ("jaxcnn/nn/pooling.py", "1 / (rows * columns), y.dtype", "1 / rows, y.dtype", "test_functional.py::test_the_mean_of_blocks_is_summed_in_float32_and_has_its_derivatives"),
    ("jaxcnn/nn/pooling.py", "at_least_float32(x).reshape", "x.reshape", "test_functional.py::test_the_mean_of_blocks_is_summed_in_float32_and_has_its_derivatives"),
    ("jaxcnn/receptive.py", "windowed(1, rows, rows)", "windowed(1, rows, 1)", "test_complexity.py::test_receptive_fields"),
    ("jaxcnn/nn/convolution.py", "lax.dot_general(y, x, (((0,)", "lax.dot_general(y, 2 * x, (((0,)", "test_convolution.py::test_every_way_gives_the_product_by_its_definition"),
    ("jaxcnn/nn/convolution.py", "jnp.dtype(dtype).itemsize >= 4", "True", "test_convolution.py::test_what_is_chosen_on_a_cpu"),
    ("jaxcnn/nn/functional.py", "return jnp.where(x <= 0, jnp.zeros_like(x), x)", "return jax.nn.relu(x)", "test_functional.py::test_a_residual_network_computes_each_block_once"),
    ("jaxcnn/mesh.py", '"jax_cpu_enable_async_dispatch", False', '"jax_cpu_enable_async_dispatch", True', "test_launch.py::test_what_a_step_frees_is_kept_for_the_next"),
    ("jaxcnn/environment.py", "    _keep_memory()\n", "", "test_launch.py::test_what_a_step_frees_is_kept_for_the_next"),
    ("jaxcnn/nn/convolution.py", "(j - left - start, end + left - j -", "(j - start, end - j -", "test_convolution.py::test_every_way_gives_the_product_by_its_definition"),
    ("jaxcnn/nn/convolution.py", "(i, seen - w.shape[1] - i)", "(seen - w.shape[1] - i, i)", "test_convolution.py::test_every_way_gives_the_product_by_its_definition"),
    ("jaxcnn/nn/convolution.py", "(left, last + seen - left", "(left + 1, last + seen - left - 1", "test_convolution.py::test_every_way_gives_the_product_by_its_definition"),
    ("jaxcnn/nn/convolution.py", "x.reshape(w.shape[2], -1).T", "x.reshape(-1, w.shape[2])", "test_convolution.py::test_every_way_gives_the_product_by_its_definition"),
    ("jaxcnn/tree.py", "total += reduce(operator.add", "total = reduce(operator.add", "test_step.py::test_the_norm_is_that_of_all_leaves"),
    ("jaxcnn/nn/convolution.py", " or (of == \"x\" and _sees_only_padding(geometry))", "", "test_convolution.py::test_every_way_gives_the_product_by_its_definition"),
    ("jaxcnn/nn/linear.py", '"num_devices", 1) > 1', '"num_devices", 1) > 99', "test_collectives.py::test_gradients_and_moments_are_summed_once_and_nothing_else"),
    ("jaxcnn/saver.py", "self._background.submit(self._write, pending).result", "str", "test_checkpoint.py::test_a_save_waits_for_nothing_but_the_copy"),
    ("jaxcnn/saver.py", "for seconds in _SECONDS_BEFORE_RETRY:", "for seconds in ():", "test_checkpoint.py::test_flaky_storage_is_tried_three_times_and_then_training_goes_on"),
    ("jaxcnn/saver.py", "return np.array(leaf)", "return leaf", "test_checkpoint.py::test_flaky_storage_is_tried_three_times_and_then_training_goes_on"),
    ("jaxcnn/saver.py", "free < (needed :=", "free < 0 * (needed :=", "test_checkpoint.py::test_a_disk_that_is_nearly_full_is_told_before_anything_is_written"),
    ("jaxcnn/writers.py", "            with contextlib.suppress(OSError):  # a full disk: ``sync`` tells, the run goes on\n                self._hand_over()", "            self._hand_over()", "reliability/test_disk.py::test_a_limit_on_the_size_of_files"),
    ("jaxcnn/saver.py", "        return False\n\n\nclass _Pending", "        return super().reached_preemption(step)\n\n\nclass _Pending", "test_checkpoint.py::test_a_save_leaves_the_count_on_which_processes_settle_a_stop_alone"),
    ("jaxcnn/saver.py", "        step = int(state.step)\n", "        step = int(state.step)\n        __import__('threading').Thread(target=__import__('time').sleep, args=[1e3], daemon=True).start()\n", "reliability/test_soak.py::test_a_run_keeps_its_threads_files_and_checkpoints"),
    ("jaxcnn/saver.py", "            self._first()\n", "            pass\n", "test_checkpoint.py::test_no_checkpoint_is_written_before_its_rows"),
    ("jaxcnn/saver.py", "hosts.all_say(self._obstacle(pending))", "[self._obstacle(pending)]", "reliability/test_disk.py::test_of_two_processes_one_alone_finds_the_disk_full"),
    ("jaxcnn/fields.py", "not abs(number) <= sys.float_info.max", "not __import__('math').isfinite(number)", "reliability/test_fuzz.py::test_numbers_of_any_size_in_every_field"),
    ("jaxcnn/cli/main.py", "    atexit.register(let_go)\n", "", "reliability/test_stops.py::test_what_standard_error_does_not_take_leaves_the_exit_code_alone"),
    ("jaxcnn/rundir.py", "(free := shutil.disk_usage(existing).free) < num_bytes", "(free := 0) > num_bytes", "reliability/test_bad_input.py::test_bad_input"),
    ("jaxcnn/console.py", "        self.quiet = True\n        silence(sys.stderr)", "        raise SystemExit(1)", "reliability/test_stops.py::test_a_run_does_not_end_with_whoever_reads_its_messages"),
    ("jaxcnn/cli/train.py", "        stop=stop,\n", "        stop=lambda: False,\n", "reliability/test_stops.py::test_sigterm_saves_and_ends_with_75"),
    ("jaxcnn/loop.py", "journal.fetch()\n", "journal.fetch() if not due(done, save_every) else None\n", "reliability/test_stops.py::test_sigkill_at_random_moments"),
    # preparing a dataset
    ("jaxcnn/data/prepare.py", "else standin.lent()", "else contextlib.nullcontext()", "test_prepare.py::test_mnist_is_prepared_exactly_and_offline"),
    ("jaxcnn/data/standin.py", "known.clear()", "pass", "test_prepare.py::test_what_is_lent_is_given_back"),
    ("jaxcnn/data/standin.py", '_encode(pixels, format="png")', '_encode(pixels, format="jpeg")', "test_prepare.py::test_mnist_is_prepared_exactly_and_offline"),
    ("jaxcnn/data/downloads.py", "if missing and self._offline:", "if False:", "test_prepare.py::test_bad_input_is_one_line"),
    ("jaxcnn/data/downloads.py", "if needed > free:", "if False:", "test_prepare.py::test_a_full_disk_is_noticed_before_anything_is_downloaded"),
    ("jaxcnn/data/downloads.py", "extract_dir=extract_dir(directory, builder.name)", "extract_dir=None", "test_prepare.py::test_mnist_and_fashion_mnist_do_not_share_extracted_files"),
    ("jaxcnn/data/prepare.py", "files.remove(version", "list(version", "test_prepare.py::test_killed_while_it_downloads_and_while_it_writes"),
    ("jaxcnn/data/prepare.py", "fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass", "test_prepare.py::test_ctrl_c_ends_at_once_and_two_at_a_time_do_not_collide"),
    ("jaxcnn/data/prepare.py", "    allow_many_files()", "    ", "test_prepare.py::test_what_does_not_fit_memory_is_shuffled_on_disk"),
    ("jaxcnn/data/prepare.py", "if not wrong if strict", "if sizes if strict", "test_prepare.py::test_half_an_archive_of_imagenet_is_refused"),
    ("jaxcnn/cli/prepare.py", "os._exit(130)", "raise", "test_prepare.py::test_ctrl_c_ends_at_once_and_two_at_a_time_do_not_collide"),
    # nothing is created by bad input
    ("jaxcnn/loop.py", "    return train(build(", "    os.makedirs(workdir, exist_ok=True)\n    return train(build(", "test_cli.py::test_bad_input_is_one_line_and_leaves_nothing"),
    # streaming
    ("jaxcnn/data/stream.py", "number * mine : (number + 1) * mine", "0 : mine", "test_stream.py::test_hosts_read_their_rows_of_the_same_batch"),
    ("jaxcnn/data/stream.py", "in itertools.count(start, _STEPS_AHEAD)", "in itertools.count(0, _STEPS_AHEAD)", "test_stream.py::test_a_restart_goes_on_with_the_same_examples"),
    ("jaxcnn/data/stream.py", "len(started) > self._ahead", "len(started) > 2 * self._ahead", "test_stream.py::test_memory_is_bounded_by_the_batches_read_ahead"),
    ("jaxcnn/data/stream.py", 'batch["mask"] &= batch["label"] != UNREADABLE', "pass", "test_stream.py::test_evaluation_masks_what_cannot_be_read"),
    ("jaxcnn/data/order.py", "^ epoch_B.astype(np.uint64)", "^ (0 * epoch_B).astype(np.uint64)", "test_stream.py::test_uniforms_belong_to_seed_example_and_epoch"),
    ("jaxcnn/data/crop.py", "(low + uniform[2 + 2 * attempt] * (high - low))", "(low + uniform[2 + 2 * attempt] ** 1.5 * (high - low))", "test_stream.py::test_resized_crops_are_drawn_as_torchvision_draws_them"),
    ("jaxcnn/data/image.py", "-(-(box.top + box.rows) // header.block_rows) * header.block_rows", "(box.top + box.rows) // header.block_rows * header.block_rows", "test_image.py::test_the_rows_left_out_change_no_pixel_of_a_crop"),
    ("jaxcnn/data/image.py", "if exif.get(0x0112) in _ROTATED:", "if False:", "test_image.py::test_decode_gives_pillows_pixels"),
    ("jaxcnn/data/reader.py", "if len(self.bad) > self._max_bad:", "if len(self.bad) > self._max_bad + 1:", "test_stream.py::test_damaged_records_are_left_out_when_allowed"),
    ("jaxcnn/data/cached.py", "or zlib.crc32(pixels.data) != crc", "", "test_stream.py::test_a_damaged_cached_file_is_made_anew"),
    ("jaxcnn/data/folder.py", "        files.sort()\n", "        pass\n", "test_sources.py::test_a_folder_of_classes_is_one_split_with_all_classes_in_each_part"),
    ("jaxcnn/step.py", "jnp.where(real_B, loss_B, 0.0)", "loss_B", "test_stream.py::test_left_out_examples_have_no_gradient"),
    ("jaxcnn/evaluate.py", "for view in found if kind", "for view in found[:1] if kind", "test_metrics.py::test_views_are_those_that_numpy_cuts_and_their_probabilities_are_averaged"),
    ("jaxcnn/complexity.py", "if not needed.isdisjoint(equation.outvars):", "if True:", "test_models.py::test_the_auxiliary_heads_of_googlenet_are_counted"),
    # many devices
    ("jaxcnn/flight.py", "len(self._results) > SIZE", "len(self._results) > 2 * SIZE", "test_flight.py"),
    ("jaxcnn/evaluate.py", "        flight.add(sums[-1])\n", "", "test_flight.py::test_an_evaluation_keeps_few_calls_in_flight"),
    ("jaxcnn/writers.py", '            self._flight.add(sums["count"])\n', "", "test_flight.py::test_a_training_run_keeps_few_calls_in_flight"),
    ("jaxcnn/precise.py", "        flight.add(total)\n", "", "test_flight.py::test_all_that_calls_a_program_often_notes_its_calls"),
    ("jaxcnn/bench/model.py", '                flight.add(sums["count"])\n', "", "test_flight.py::test_all_that_calls_a_program_often_notes_its_calls"),
    ("jaxcnn/step.py", "(total(loss_B) / real for loss_B in losses)", "(total(loss_B) * 8 / real for loss_B in losses)", "test_laws.py::test_golden_first_losses"),
    ("jaxcnn/exact.py", "jax.random.fold_in(rng.key(seed, \"dropout\", step), number)", "jax.random.fold_in(rng.key(seed, \"dropout\", step), jax.lax.axis_index(\"data\"))", "test_scale.py::test_dropout_in_an_exact_run_does_not_depend_on_the_devices"),
    ("jaxcnn/exact.py", "places = (number * size - halo", "places = (number * size", "test_scale.py::test_elastic_exact_gives_the_same_bits_on_1_2_4_and_8_devices[lenet5]"),
    ("jaxcnn/exact.py", "jnp.stack(leaves, axis=1)", "jnp.stack(leaves, axis=0)", "test_scale.py::test_dropout_in_an_exact_run_does_not_depend_on_the_devices"),
    ("jaxcnn/step.py", "leaf / parts, moved", "leaf, moved", "test_step.py::test_accumulation_with_batch_norm_is_a_ghost_batch_of_interleaved_rows"),
    ("jaxcnn/step.py", "gradient(params, batch_stats, rows, key, real, of * parts)", "gradient(params, batch_stats, rows, key, real / parts, of * parts)", "test_step.py::test_an_accumulated_gradient_is_that_of_the_whole_batch"),
    ("jaxcnn/mesh.py", "PartitionSpec(*[None] * axes[-1], \"model\")", "PartitionSpec()", "test_scale.py::test_large_weights_are_split_over_the_axis_model_and_nothing_changes"),
    ("jaxcnn/mesh.py", "if batch_size % count:", "if False:", "test_scale.py::test_batches_that_do_not_divide_are_told_with_the_nearest_that_do"),
    ("jaxcnn/nn/functional.py", "fixed = lax.stop_gradient(mean)\n    shift", "fixed = mean\n    shift", "test_collectives.py::test_gradients_and_moments_are_summed_once_and_nothing_else[resnet18-float32-global]"),
    ("jaxcnn/task.py", "jax.jit(update, donate_argnums=0, out", "jax.jit(update, out", "test_collectives.py::test_every_leaf_of_the_state_is_updated_in_place"),
    ("jaxcnn/collectives.py", "(?:may|must)-alias", "may-alias", "test_collectives.py::test_groups_and_asynchronous_forms_are_read"),
    ("jaxcnn/optim.py", "_trust(config.trust), trace", "trace, _trust(config.trust)", "test_optim.py::test_lars_follows_the_paper"),
    ("jaxcnn/optim.py", "outputs**2 / direction.size", "direction.size / outputs**2", "test_optim.py::test_muon_follows_its_author"),
    ("jaxcnn/optim.py", "_relative if config.relative", "_relative if not config.relative", "test_optim.py::test_muon_relative_to_the_kernel_with_sgd_for_the_rest_at_rates_of_its_own"),
    ("jaxcnn/optim.py", "ns_steps=config.newton_schulz,", "", "test_optim.py::test_muon_relative_to_the_kernel_with_sgd_for_the_rest_at_rates_of_its_own"),
    ("jaxcnn/optim.py", "optax.trace(config.rest_momentum", "optax.trace(config.momentum", "test_optim.py::test_muon_relative_to_the_kernel_with_sgd_for_the_rest_at_rates_of_its_own"),
    ("jaxcnn/optim.py", "leaf * factors[0]", "leaf * factors[-1]", "test_optim.py::test_muon_relative_to_the_kernel_with_sgd_for_the_rest_at_rates_of_its_own"),
    ("jaxcnn/models/speednet.py", "seen.value > 0, lambda", "seen.value < 0, lambda", "test_speednet.py::test_whitening_makes_the_patches_of_the_first_batch_white_and_stays"),
    ("jaxcnn/claims/verdict.py", "mean - half > self.above else FAILS", "mean > self.above else FAILS", "test_claims.py::test_it_holds_when_the_whole_interval_lies_above"),
    ("jaxcnn/claims/verdict.py", "<= self.within", "< 2 * self.within", "test_claims.py::test_two_ways_are_alike_when_the_whole_interval_lies_within"),
    ("jaxcnn/bench/input.py", '        return importlib.import_module("torchvision")\n    except RuntimeError:\n', '        _declare_operators()\n        return importlib.import_module("torchvision")\n    except RuntimeError:\n', "test_bench.py::test_torchvision_is_imported_with_and_without_its_compiled_part"),
    ("jaxcnn/claims/normalisation.py", "slice(last, last + 2)", "slice(last, last + 1)", "test_claims.py::test_the_largest_usable_rate_lies_between_two"),
    ("jaxcnn/claims/layers.py", "whole[:, :-shift, :-shift], later[:, shift:, shift:]", "whole, later", "test_claims.py::test_a_claim_leaves_numbers_and_a_picture"),
    ("jaxcnn/whole.py", '{"seed": np.uint32(seed), **values}', '{"seed": np.uint32(0), **values}', "test_whole.py::test_it_trains_as_the_loop_does"),
    ("jaxcnn/tree.py", 'in ("mean", "var")', 'in ("mean", "var", "moments")', "test_speednet.py::test_precise_moments_leave_the_whitening_alone"),
    ("jaxcnn/evaluate.py", "for i in (2, 0)]", "for i in (1, 0)]", "test_metrics.py::test_views_are_those_that_numpy_cuts_and_their_probabilities_are_averaged"),
    ("jaxcnn/nn/init.py", ".at[..., : len(same)].set(0)", "", "test_speednet.py::test_it_starts_as_the_paper_says"),
    ("jaxcnn/precise.py", "\"var\": var + jnp.square(mean)", "\"var\": var", "test_precise.py::test_the_first_layer_has_the_moments_of_all_batches"),
    ("jaxcnn/loop.py", "more = train.train_batches(config.seed, data.batch_size, total)", "more = train.train_batches(config.seed, data.batch_size, start)", "test_precise.py::test_a_run_ends_with_them_also_after_a_stop"),
    # several processes
    ("jaxcnn/loop.py", "    hosts.agree(_facts(", "    print(_facts(", "test_processes.py::test_a_configuration_that_differs_is_found_before_anything_is_written"),
    ("jaxcnn/loop.py", "alive(hosts.together(stop))", "alive(stop)", "test_processes.py::test_sigterm_on_one_process_saves_on_all_at_the_same_step"),
    ("jaxcnn/hosts.py", "(next(calls)) or reached", "(next(calls))", "test_processes.py::test_a_stop_that_was_settled_on_is_seen_at_every_later_call"),
    ("jaxcnn/hosts.py", "or not _LOST.match(reason)", "or True", "test_processes.py::test_a_killed_process_ends_the_other_within_25_seconds"),
    ("jaxcnn/cli/supervise.py", "if result != PeerError.exit_code or", "if True or", "test_processes.py::test_the_supervisor_starts_all_again_after_a_kill"),
    ("jaxcnn/cli/supervise.py", "prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)", "getpid()", "test_processes.py::test_sigterm_on_the_supervisor_stops_all_and_its_death_does_too"),
    ("jaxcnn/hosts.py", "        _check_port(place.coordinator, about)", "        pass", "test_processes.py::test_a_missing_peer_and_a_taken_port_are_told"),
    ("jaxcnn/gloo.py", "hostname=own)", "hostname=\"127.0.0.1\")", "test_processes.py::test_two_hosts_with_networks_of_their_own"),
    # many runs
    ("jaxcnn/task.py", "config = traced(self.config, values)", "config = self.config", "test_many.py::test_each_seed_is_its_single_run[turns]"),
    ("jaxcnn/many.py", "statistics.stdev(values)", "statistics.pstdev(values)", "test_many.py::test_each_seed_is_its_single_run[turns]"),
    ("jaxcnn/many.py", "            together.leave(number)", "            pass", "test_many.py::test_a_run_that_diverges_is_told_and_the_others_end[vmap]"),
]  # fmt: skip


def verdict(copy: pathlib.Path, row: tuple[str, str, str, str]) -> str:
    """Return the tier that catches a mutation, "fast" or "full", or the reason why none does."""
    file, old, new, test = row
    text = (ROOT / file).read_text()
    if old not in text:
        return "DOES NOT FIT: the piece is not in the file"
    (copy / file).write_text(text.replace(old, new, 1))
    try:
        if fails(copy, test):
            return "fast"
        return "full" if fails(copy, test, "--full") else "SURVIVED"
    except RuntimeError as error:
        return f"ERROR {error}"
    finally:
        (copy / file).write_text(text)


def fails(copy: pathlib.Path, test: str, *flags: str) -> bool:
    """Run a test in the copy. Return True if it fails, False if it passes or the tier does not include it."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider", f"tests/{test}", *flags]
    variables = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, env=variables)
    if done.returncode not in (0, 1, 5):  # passed, failed, nothing to run
        raise RuntimeError(f"{done.returncode}: {done.stdout[-300:]}{done.stderr[-300:]}")
    return done.returncode == 1


def main() -> int:
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    rows = [row for row in ROWS if word in "".join(row)]
    begin, found = time.monotonic(), collections.Counter()
    with tempfile.TemporaryDirectory() as temporary, futures.ThreadPoolExecutor(environment.num_cores()) as pool:
        copies: queue.Queue[pathlib.Path] = queue.Queue()
        for number in range(environment.num_cores()):
            copies.put(pathlib.Path(temporary) / str(number))
            ignored = shutil.ignore_patterns(".git", ".venv*", "runs", "__pycache__", ".pytest_cache")
            shutil.copytree(ROOT, pathlib.Path(temporary) / str(number), ignore=ignored)

        def tried(row: tuple[str, str, str, str]) -> str:
            copy = copies.get()
            try:
                return verdict(copy, row)
            finally:
                copies.put(copy)

        for (file, old, _, test), answer in zip(rows, pool.map(tried, rows), strict=True):
            print(f"{answer:8s} {file}: {old.strip()[:50]!r} -> {test}", flush=True)
            found[answer if answer in ("fast", "full") else "not caught"] += 1
    print(
        f"{found['fast'] + found['full']} of {len(rows)} mutations caught, {found['fast']} of them by the fast tier alone, "
        f"in {time.monotonic() - begin:.0f} s"
    )
    return 1 if found["not caught"] else 0


if __name__ == "__main__":
    sys.exit(main())
