# ruff: noqa: F821, B018
"""What vulture takes for unused: what users set or call, and what libraries call; see `tox -e lint`."""

# fields of arguments, of the state and of payloads
_.do_train, _.evaluate_during_training, _.evaluation_strategy, _.per_gpu_train_batch_size, _.per_gpu_eval_batch_size
_.evaluation_batch, _.weight_average, _.model_summary, _.is_main_process, _.unwrap_model, _.wait_for_everyone
_.gather_for_metrics, _.callback_list, language, license, finetuned_from, dataset_tags, _.is_last_process, _.reduce
_.split_between_processes, _.local_main_process_first, _.adafactor, _.activation_checkpointing
_.activation_checkpointing_kwargs, _.include_inputs_for_metrics, _.tpu_metrics_debug, _.use_cpu, _.trial_name
_.trial_params, _.train_dataloader, _.eval_dataloader, _.training_loss, _.NO, _.EPOCH, scheduled, _.is_long
# methods and parameters of the documented surface
_.hyperparameter_search, _.remove_callback, _._prepare_inputs, _.save_to_json, _.get_warmup_steps, _.from_json
num_items_in_batch, start_time, _.evaluation_loop
# read or called by torch, Keras, blinker, http.server and Python
_.server_version, _.sys_version, _.do_GET, _.do_POST, _.close_connection, _.log_message, _.daemon_threads
_.allow_reuse_address, _.handle_error, client_address, _.read_metadata, _.transform_descriptors
_._apply_weight_decay, _.set_class, _.add_param_group, param_group, _._listeners, _.allow_tf32, _.benchmark
__getattr__, __dir__, worker_id, _.exc_text
