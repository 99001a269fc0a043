"""The one SpeechBrain Brain: multi-exit training under every regime, CTC and perhaps a shared attention decoder."""

import logging
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.augment.time_domain import SpeedPerturb
from speechbrain.nnet.schedulers import NewBobScheduler
from speechbrain.utils.train_logger import FileTrainLogger

from eeasr_modules.data.pipeline import n_samples_of
from eeasr_modules.data.text import split_language
from eeasr_modules.exits.measure.edits import count_edits
from eeasr_modules.models.decoding.attention import misspelled
from eeasr_modules.models.decoding.ctc import greedy_decode
from eeasr_modules.training.config.checks import alphas_of, regime_of
from eeasr_modules.training.objectives import (
    Distillation,
    Spelling,
    confidence_weights,
    load_teacher,
    utterance_ctc_losses,
)
from eeasr_modules.training.run_folder import Samples, extra_logger
from eeasr_modules.training.schedule import OWN_TEACHERS, decayed_groups, lr_share

logger = logging.getLogger(__name__)


class ExitBrain(sb.Brain):
    """Trains a `MultiExit`; a YAML may name a subclass of it.

    `n_batches`: batches per epoch, for the learning rate.
    """

    def __init__(self, model, config, *, vocabulary, n_batches, run_opts, checkpointer, train_log):
        self.config, self.vocabulary, self.n_batches = config, vocabulary, n_batches
        self.regime = regime_of(config)
        self.weights = self.regime.weights  # of the update that is being made
        self.epoch = 1
        self.newbob = NewBobScheduler(1.0) if config.lr_schedule == "newbob" else None
        super().__init__(
            modules={"model": model}, hparams={"seed": config.seed}, run_opts=run_opts, checkpointer=checkpointer
        )
        if config.accumulate_batches != 1:
            self.grad_accumulation_factor = config.accumulate_batches
        if n_batches < self.grad_accumulation_factor and config.n_epochs:
            raise ValueError(
                f"accumulate_batches must be at most the {n_batches} batches of an epoch, "
                f"got {self.grad_accumulation_factor}"
            )
        self.logger = FileTrainLogger(save_file=train_log, precision=3)
        self.more = extra_logger(config.logger, Path(train_log).parent) if config.n_epochs else None
        self.samples = Samples(Path(train_log).with_name("samples.txt"), config.exit_layers)
        self.distillation, self.teacher, self.teacher_log_probs = None, None, None
        if config.distill is not None and config.n_epochs:
            self.distillation = Distillation(config.distill, alphas_of(config), config.distill_transcript_share)
            if config.distill not in OWN_TEACHERS:
                self.teacher = load_teacher(config.distill, vocabulary, device=self.device)
        self.spelling = Spelling.of(config)
        self.unsound = False  # a loss since the last update was not finite
        self.speed = None
        if config.speeds != [100]:
            self.speed = SpeedPerturb(config.sample_rate, speeds=config.speeds, device=self.device)

    def compute_forward(self, batch, stage):
        """Log-probs of every exit, frame counts, perhaps the decoder's; training audio is sped up or slowed down."""
        batch = batch.to(self.device)
        wavs, relative = batch.sig
        if self.config.cache_states:
            states = wavs if torch.is_autocast_enabled(torch.device(self.device).type) else wavs.float()
            return self.modules.model(states, n_samples_of(relative, wavs.shape[1]), are_states=True)
        if stage == sb.Stage.TRAIN and self.speed is not None:
            wavs = self.speed(wavs)
        n_samples = n_samples_of(relative, wavs.shape[1])
        if stage == sb.Stage.TRAIN and self.teacher is not None:
            with torch.no_grad():
                self.teacher_log_probs = self.teacher(wavs, n_samples)[0][-1]
        if self.spelling is None:
            return self.modules.model(wavs, n_samples)
        everyone = tuple(range(len(self.weights)))
        return self.modules.model(
            wavs,
            n_samples,
            prefixes=self._model.decoder.prefixes(batch.tokens.data),
            spelling_exits=self.spelling.drawn(self.weights) if stage == sb.Stage.TRAIN else everyone,
        )

    def compute_objectives(self, predictions, batch, stage):
        """Weighted sum of the exits' losses, nats per token; on validation, CTC alone, also counts word errors."""
        log_probs, n_frames, *spelled = predictions
        tokens, relative = batch.tokens
        n_tokens = n_samples_of(relative, tokens.shape[1])
        spelled = self._spelling_losses(*spelled, tokens, n_tokens, stage) if spelled else None
        blank_index = self.vocabulary.blank_index
        by_utterance = utterance_ctc_losses(log_probs, n_frames, tokens, n_tokens, blank_index=blank_index)
        n_tokens = n_tokens.sum().clamp(min=1)
        losses = by_utterance.sum(dim=1) / n_tokens
        if stage != sb.Stage.TRAIN or self._is_sound(by_utterance, batch.id):
            self.loss_sums += losses.detach()
            self.n_summed += 1
        if stage != sb.Stage.TRAIN:
            self._count_words(log_probs, n_frames, batch.id, batch.words)
        weights = torch.tensor(self.weights, device=losses.device)
        if stage != sb.Stage.TRAIN:
            return (losses * weights).sum()
        if self.distillation is not None:
            by_utterance = self.distillation.mixed(
                by_utterance, log_probs, n_frames, blank_index=blank_index, teacher_log_probs=self.teacher_log_probs
            )
            losses = by_utterance.sum(dim=1) / n_tokens
        loss = (losses * weights).sum()
        if self.config.confidence_weighted:
            loss = (by_utterance * confidence_weights(log_probs, n_frames, weights)).sum() / n_tokens
        return loss if spelled is None else self.spelling.joint(loss, spelled)

    def _is_sound(self, by_utterance, utt_ids):
        """Whether all losses are finite; else those who have another are named, and the update is skipped."""
        finite = by_utterance.isfinite().all(dim=0).tolist()
        if all(finite):
            return True
        self.unsound = True
        named = ", ".join(utt_id for utt_id, is_finite in zip(utt_ids, finite, strict=True) if not is_finite)
        logger.warning("the loss of %s is not finite: this update is skipped", named)
        return False

    def _spelling_losses(self, spelled, tokens, n_tokens, stage):
        """Losses of the attention decoder by exit, which are summed for the log as well."""
        smoothed = stage == sb.Stage.TRAIN
        losses = self.spelling.losses(spelled, tokens, n_tokens, decoder=self._model.decoder, smoothed=smoothed)
        for e, loss in losses.items():
            self.spelling_sums[e].append(loss.item())
        if not smoothed:
            self.n_spelled += int((n_tokens + 1).sum())
            for e, log_probs in spelled.items():
                wrong = misspelled(log_probs, tokens, n_tokens, decoder=self._model.decoder)
                self.misspelled[e] += int(wrong.sum())
        return losses

    def _count_words(self, log_probs, n_frames, utt_ids, references):
        references = [split_language(reference)[1] for reference in references]
        self.n_words += sum(len(reference.split()) for reference in references)
        texts = []
        for e, exit_log_probs in enumerate(log_probs):
            decoded = greedy_decode(exit_log_probs, n_frames, blank_index=self.vocabulary.blank_index)
            texts.append([self.vocabulary.decode(tokens) for tokens in decoded])
            self.errors[e] += sum(sum(count_edits(*pair)) for pair in zip(references, texts[e], strict=True))
        self.samples.take(utt_ids, references, texts)

    def init_optimizers(self):
        """AdamW for the encoder and AdamW for the heads, so that each is clipped (Brain clips first groups only)."""
        model = self._model
        heads = list(model.heads.parameters())
        for part in (model.conditioning, model.decoder):
            heads += [] if part is None else part.parameters()
        groups = {"heads_optimizer": (heads, self.config.heads_lr)}
        if not model.encoder_frozen:
            groups["encoder_optimizer"] = (model.encoder.parameters(), self.config.encoder_lr)
        self.peak_lr = {name: lr for name, (_, lr) in groups.items()}
        decay = self.config.layer_lr_decay
        held = {name: [p for p in parameters if p.requires_grad] for name, (parameters, _) in groups.items()}
        if decay < 1 and not model.encoder_frozen:
            held["encoder_optimizer"] = decayed_groups(model.encoder, decay=decay)
        self.optimizers_dict = {
            name: torch.optim.AdamW(held[name], lr=lr, betas=(0.9, 0.98), weight_decay=self.config.weight_decay)
            for name, (_, lr) in groups.items()
        }
        if self.checkpointer is not None:
            for name, optimizer in self.optimizers_dict.items():
                self.checkpointer.add_recoverable(name, optimizer)
            if self.newbob is not None:
                self.checkpointer.add_recoverable("newbob", self.newbob)

    @property
    def _model(self):
        model = self.modules.model
        return getattr(model, "module", model)

    def on_fit_batch_start(self, batch, should_step):
        """Learning rate of this update, from the share of updates that are done, and the exits that it trains."""
        share = lr_share(
            self.config.lr_schedule,
            self.regime.progress(self.epoch, n_done=self.step, n_batches=self.n_batches),
            warmup_share=self.config.warmup_share,
            final_share=self.config.final_lr_share,
        )
        if self.newbob is not None:
            share *= max(self.config.final_lr_share, self.newbob.hyperparam_value)
        for name, optimizer in self.optimizers_dict.items():
            for group in optimizer.param_groups:
                group["lr"] = share * self.peak_lr[name] * group.get("lr_scale", 1.0)
        in_epoch = self.n_batches // self.grad_accumulation_factor
        update = (self.epoch - 1) * in_epoch + (self.step - 1) // self.grad_accumulation_factor
        self.weights = self.regime.weights_of(self.epoch, update=update)

    def optimizers_step(self):
        """One update, each optimizer's gradients clipped together (SpeechBrain clips its first group only).

        Heads that the regime leaves out have no gradient, not a zero one: AdamW would move them still.
        """
        if self.config.regime != "joint":
            self._forget_idle_heads()
        moving = {
            name: optimizer
            for name, optimizer in self.freeze_optimizers(self.optimizers_dict).items()
            if any(p.grad is not None for group in optimizer.param_groups for p in group["params"])
        }
        if self._any_unsound():
            self._end_update()
            return
        for optimizer in moving.values():
            self.scaler.unscale_(optimizer)
            if self.max_grad_norm > 0:  # SpeechBrain's -1 would turn gradients round
                parameters = [p for group in optimizer.param_groups for p in group["params"]]
                torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
        if not self.scaler.is_enabled() and self.skip_nonfinite_grads:
            self.check_gradients()
        for optimizer in moving.values():
            self.scaler.step(optimizer)
        if moving:
            self.scaler.update()
        self._end_update()

    def _any_unsound(self):
        """Whether a process met a loss that is not finite: all then skip, as they share gradients."""
        if not torch.distributed.is_available() or not torch.distributed.is_initialized():
            return self.unsound
        found = torch.tensor(float(self.unsound), device=self.device)
        torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
        return bool(found)

    def _end_update(self):
        """Gradients forgotten, the update counted, also one that was skipped."""
        for optimizer in self.optimizers_dict.values():
            optimizer.zero_grad(set_to_none=True)
        self.unsound = False
        self.optimizer_step += 1

    def _forget_idle_heads(self):
        heads = self._model.heads
        busy = {id(p) for head, weight in zip(heads, self.weights, strict=True) if weight for p in head.parameters()}
        for parameter in heads.parameters():
            if id(parameter) not in busy:
                parameter.grad = None

    def on_stage_start(self, stage, epoch=None):
        """Fresh sums."""
        n_exits = len(self.config.exit_layers)
        self.loss_sums, self.n_summed = torch.zeros(n_exits, device=self.device), 0
        self.errors, self.n_words = [0] * n_exits, 0
        self.spelling_sums = [[] for _ in range(n_exits)]
        self.misspelled, self.n_spelled = [0] * n_exits, 0
        if stage == sb.Stage.TRAIN:
            self.epoch = epoch
            # seeded by epoch: a resumed run draws what an uninterrupted one would have drawn
            torch.manual_seed(self.config.seed * 100003 + epoch)
            if self.regime.frozen(epoch) and not self._model.encoder_frozen:
                self._model.freeze_encoder()
                self._model.freeze_last_head()

    def _selected(self, by_exit):
        return by_exit[-1] if self.config.select_on == "last" else sum(by_exit) / len(by_exit)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log per exit, and checkpoint on the chosen word error rate (joined with the decoder's of tokens)."""
        layers = self.config.exit_layers
        losses = (self.loss_sums / max(1, self.n_summed)).tolist()
        by_exit = {f"loss_{layer}": loss for layer, loss in zip(layers, losses, strict=True)}
        spelled = zip(layers, self.spelling_sums, strict=True)
        by_exit |= {f"attention_loss_{layer}": sum(sums) / len(sums) for layer, sums in spelled if sums}
        if stage == sb.Stage.TRAIN:
            self.train_stats = {"loss": stage_loss, **by_exit}
            return
        wer = [100.0 * errors / max(1, self.n_words) for errors in self.errors]
        chosen = stage_loss if self.config.select_on == "loss" else self._selected(wer)
        wer_by_exit = {f"WER_{layer}": value for layer, value in zip(layers, wer, strict=True)}
        if self.spelling is not None:
            wrong = [100.0 * n / max(1, self.n_spelled) for n in self.misspelled]
            chosen = self.spelling.joint_error(chosen, self._selected(wrong))
            wer_by_exit |= {f"attention_TER_{layer}": value for layer, value in zip(layers, wrong, strict=True)}
        lr = next(iter(self.optimizers_dict.values())).param_groups[0]["lr"]
        if self.newbob is not None:
            # not the error rate, which stands at 100 % while a model from scratch begins to learn
            self.newbob(stage_loss)
        stats = {
            "stats_meta": {"epoch": epoch, "lr": lr},
            "train_stats": self.train_stats,
            "valid_stats": {"loss": stage_loss, **by_exit, **wer_by_exit},
        }
        self.logger.log_stats(**stats)
        if self.more is not None:
            self.more.log_stats(**stats)
        if sb.utils.distributed.if_main_process():
            said = self.samples.write(epoch)
            if self.more is not None and hasattr(self.more, "writer"):
                self.more.writer.add_text("samples", f"```\n{said}\n```", epoch)
                self.more.writer.flush()
        self.checkpointer.save_and_keep_only(
            meta={"WER": chosen, "epoch": epoch}, min_keys=["WER"], num_to_keep=self.config.average_checkpoints
        )
