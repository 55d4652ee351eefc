# ruff: noqa: F821, B018
"""What vulture takes for unused: what users set or call, and what libraries call; see `tox -e lint`."""

# fields of arguments, of the state and of payloads
_.do_train, _.evaluate_during_training, _.evaluation_strategy, _.per_gpu_train_batch_size, _.per_gpu_eval_batch_size
_.evaluation_batch, _.weight_average, _.find_batch_size, _.model_summary
_.main_process_first, _.num_processes, _.is_main_process, _.unwrap_model, _.wait_for_everyone, _.gather_for_metrics
_.callback_list, language, license, finetuned_from, dataset_tags
_.is_last_process, _.reduce, _.split_between_processes, _.local_main_process_first
_.adafactor, _.activation_checkpointing, _.activation_checkpointing_kwargs, _.include_inputs_for_metrics
_.tpu_metrics_debug, _.use_cpu, _.trial_name, _.trial_params, _.train_dataloader, _.eval_dataloader, _.exception
_.training_loss, _.emissions_kg, _.background_s, _.NO, _.EPOCH, scheduled
_.padding, _.pad_to_multiple_of, _.max_length, _.return_tensors
# read by the templates of a page
_.is_long
# methods and parameters of the documented surface
_.hyperparameter_search, _.remove_callback, _.compute_loss_context_manager, _._prepare_inputs, _.save_to_json
_.get_warmup_steps, _.from_json, num_items_in_batch, _internal_call, start_time
# read or called by http.server
_.server_version, _.sys_version, _.do_GET, _.do_POST, _.close_connection, _.log_message, _.daemon_threads
_.allow_reuse_address, _.handle_error, client_address
# called or read by torch, Keras, blinker and Python
_.read_metadata, _.transform_descriptors, _._apply_weight_decay, _._on_step_begin, _._on_step_end, _.set_class
_.add_param_group, param_group, _._listeners, _.allow_tf32, _.benchmark, __getattr__, __dir__, worker_id, _.exc_text
