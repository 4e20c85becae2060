"""Which settings of a config.json transformers is given: a list of what is allowed, not of what is forbidden.

Read off the config classes and the modeling files of transformers 5.24, for every model_type that `FAMILIES` knows:
what a class declares, and what its encoder reads from its config without declaring it. A setting that names code or a
place (a kernel, a module, a repository, a file) is on neither list, so that none gets through, whatever it is called.
Tests hold both lists against the transformers that is installed.
"""

from __future__ import annotations

from typing import Any


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# How many layers, which are built one by one.
COUNTS = _names("""
    num_hidden_layers n_layers n_layer num_layers encoder_layers decoder_layers num_decoder_layers
    l_layers x_layers r_layers num_hidden_groups inner_group_num num_feedforward_networks
""")

# How wide everything is.
_WIDTHS = _names("""
    hidden_size d_model dim emb_dim true_hidden_size intra_bottleneck_size
    embedding_size input_embedding_size embedding_rank projection_dim projection_size
    intermediate_size d_inner hidden_dim dim_ff feed_forward_size d_ff encoder_ffn_dim decoder_ffn_dim
    num_attention_heads n_heads n_head num_heads encoder_attention_heads decoder_attention_heads num_key_value_heads
    head_dim d_head d_kv dim_head attention_head_size
    vocab_size n_words n_token type_vocab_size type_vocab_sizes max_position_embeddings
""")

# Which functions, where the norms and the biases are.
_FUNCTIONS = _names("""
    hidden_act hidden_activation activation activation_function ff_activation feed_forward_proj gelu_activation
    dense_act_fn is_gated_act classifier_activation
    layer_norm_eps layer_norm_epsilon rms_norm_eps norm_eps eps normalization_type pre_norm emb_layer_norm_before
    use_bias qkv_bias attention_bias mlp_bias norm_bias
    residual_multiplier scale_embedding rescale_embeddings tie_word_embeddings
    use_bottleneck use_bottleneck_attention key_query_shared_bottleneck trigram_input quant_mode force_dequant
""")

# Where a token is.
_POSITIONS = _names("""
    position_embedding_type position_biased_input sinusoidal_pos_embds sinusoidal_embeddings rotary_value
    rope_parameters rope_scaling rope_theta global_rope_theta local_rope_theta partial_rotary_factor
    original_max_position_embeddings
    relative_attention relative_attention_num_buckets relative_attention_max_distance max_relative_positions
    position_buckets pos_att_type norm_rel_ebd share_att_key talking_head
    position_bias_num_buckets position_bias_max_distance clamp_len bi_data same_length
    axial_pos_embds axial_pos_embds_dim axial_pos_shape
    max_2d_position_embeddings coordinate_size shape_size has_relative_attention_bias has_spatial_attention_bias
    rel_pos_bins max_rel_pos rel_2d_pos_bins max_rel_2d_pos
    bbox_scale dim_bbox dim_bbox_projection dim_bbox_sinusoid_emb_1d dim_bbox_sinusoid_emb_2d
""")

# Which token looks at which, and by what approximation.
_ATTENTION = _names("""
    is_decoder is_encoder is_encoder_decoder is_causal causal add_cross_attention cross_attention_frequency
    attention_type attn_type attn_layers layer_types per_layer_config global_attn_every_n_layers
    attention_window attention_windows local_attention sliding_window block_size num_random_blocks
    local_attn_chunk_length local_num_chunks_before local_num_chunks_after
    lsh_attn_chunk_length lsh_num_chunks_before lsh_num_chunks_after num_buckets num_hashes hash_seed
    num_hash hash_code_len use_expectation use_fast_hash lsh_backward
    approx_mode block_per_row initial_prior_first_n_blocks initial_prior_diagonal_n_blocks
    num_landmarks segment_means_seq_len inv_coeff_init_option
    mem_len reuse_len use_mems_eval use_mems_train
    use_tpu_fourier_optimizations tpu_short_seq_length onnx_export deterministic_flash_attn
    use_entity_aware_attention
""")

# Convolutions, groups of features, and rows that are drawn together.
_SHAPES = _names("""
    conv_kernel_size conv_groups conv_act conv_window head_ratio num_groups
    q_groups k_groups v_groups post_attention_groups intermediate_groups output_groups channel_shrink_ratio
    block_sizes block_repeats pooling_type pool_q_only separate_cls truncate_seq
    downsampling_rate upsampling_kernel_size local_transformer_stride num_hash_functions num_hash_buckets
""")

# Tokens that mean something, and what else is embedded beside them.
_INPUTS = _names("""
    pad_token_id bos_token_id eos_token_id mask_token_id decoder_start_token_id document_token_id image_token_id
    pad_index bos_index eos_index token_dropout
    languages default_language adapter_layer_norm adapter_reduction_factor adapter_reuse_layer_norm ln_before_adapter
    n_langs use_lang_emb task_type_vocab_size use_task_id prompt_types prompt_length segment_types
    reset_position_index_per_cell entity_vocab_size entity_emb_size
    enable_pronunciation pronunciation_embed_dim pronunciation_vocab_size
    enable_shape shape_embed_dim shape_vocab_size concat_input
    max_depth max_xpath_tag_unit_embeddings max_xpath_subs_unit_embeddings tag_pad_id subs_pad_id
    xpath_unit_hidden_size
    text_embed visual_embed input_size num_channels patch_size
    visual_feat_dim visual_pos_dim visual_embedding_dim bypass_transformer special_visual_initialize
    encoder_hidden_size use_qformer_text_input
""")

# Of training: an encoder at rest drops nothing and draws nothing, but its modules are built with these.
_TRAINING = _names("""
    hidden_dropout_prob hidden_dropout dropout dropout_rate dropout_p activation_dropout embedding_dropout mlp_dropout
    attention_probs_dropout_prob attention_dropout local_attention_probs_dropout_prob lsh_attention_probs_dropout_prob
    layerdrop encoder_layerdrop decoder_layerdrop
    initializer_range initializer_factor initializer_std initializer_cutoff_factor init_std embed_init_std
    axial_norm_std init_cell_selection_weights_to_zero
""")

ALLOWED = COUNTS | _WIDTHS | _FUNCTIONS | _POSITIONS | _ATTENTION | _SHAPES | _INPUTS | _TRAINING

# Declared by a config class, and no encoder reads them.
NEEDLESS = _names("""
    architectures transformers_version dtype id2label label2id problem_type

    classifier_dropout classifier_dropout_prob classifier_bias classifier_pooling pooler_dropout pooler_hidden_act
    qa_dropout seq_classif_dropout start_n_top end_n_top question_token_id cls_token_id sep_token_id
    summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout summary_last_dropout
    decoder_bias sparse_prediction sparse_pred_ignore_index asm legacy chunk_size_lm_head
    output_embedding_size embedding_dim prediction_head_size project_dim projection_hidden_act n_relations
    label_smoothing forced_eos_token_id lang_id mask_index unk_index pretraining_tp
    is_folding_model esmfold_config vocab_list

    num_qa_labels num_object_labels num_attr_labels task_matched task_mask_lm task_obj_predict task_qa
    visual_obj_loss visual_attr_loss visual_feat_loss visual_loss_normalizer

    aggregation_labels aggregation_loss_weight aggregation_temperature num_aggregation_labels
    no_aggregation_label_index average_approximation_function average_logits_per_cell positive_label_weight
    allow_empty_column_selection answer_loss_cutoff answer_loss_importance cell_selection_preference
    disable_per_token_loss huber_loss_delta max_num_columns max_num_rows select_one_column temperature
    use_answer_as_supervision use_gumbel_for_aggregation use_gumbel_for_cells use_normalized_answer_loss
""")

# Set here whatever the file says. Results are the same; chunks would fire a hook several times a layer, and outputs
# that are asked for leave hooks behind.
PLAIN: dict[str, Any] = {
    "chunk_size_feed_forward": 0,
    "output_hidden_states": False,
    "output_attentions": False,
    "return_dict": True,
    "use_cache": False,
}

# Nothing is built as large as these say.
NO_SIZES = _names("rope_theta global_rope_theta local_rope_theta rope_parameters rope_scaling hash_seed")

# The few settings that are objects, and what may stand in them.
_ROPE = _names("""
    rope_type type rope_theta partial_rotary_factor factor original_max_position_embeddings
    attention_factor beta_fast beta_slow low_freq_factor high_freq_factor short_factor long_factor
    mscale mscale_all_dim truncate
    full_attention sliding_attention
""")
WITHIN: dict[str, frozenset[str]] = {
    "rope_parameters": _ROPE,
    "rope_scaling": _ROPE,
    "num_hidden_layers": _names("vision cross_encoder language"),  # as LXMERT counts them
    "per_layer_config": ALLOWED - {"per_layer_config"},  # by the layer's number
}
