"""The one SpeechBrain Brain: multi-exit CTC training, joint or heads only."""

import speechbrain as sb
import torch
from speechbrain.augment.time_domain import SpeedPerturb
from speechbrain.utils.train_logger import FileTrainLogger

from eeasr_modules.data.pipeline import n_samples_of
from eeasr_modules.exits.edits import count_edits
from eeasr_modules.models.decode import greedy_decode
from eeasr_modules.models.losses import exit_ctc_losses, exit_weights
from eeasr_modules.training.schedule import warmup_cosine


class ExitBrain(sb.Brain):
    """Trains a `MultiExit`; a YAML may name a subclass of it.

    Arguments
    ---------
    model : MultiExit
        Walk and heads in one module.
    config : training.config.Config
        Checked configuration.
    vocabulary : CharVocabulary or SentencePieceVocabulary
        To turn tokens into words for the word error rate.
    n_batches : int
        Batches per epoch, for the learning rate.
    run_opts : RunOptions
        SpeechBrain's command-line options.
    checkpointer : Checkpointer
        Where recoverables go.
    train_log : str
        Path of `train_log.txt`.
    """

    def __init__(self, model, config, *, vocabulary, n_batches, run_opts, checkpointer, train_log):
        self.config, self.vocabulary, self.n_batches = config, vocabulary, n_batches
        self.weights = exit_weights(config.exit_weights, len(config.exit_layers))
        self.epoch = 1
        super().__init__(
            modules={"model": model}, hparams={"seed": config.seed}, run_opts=run_opts, checkpointer=checkpointer
        )
        self.logger = FileTrainLogger(save_file=train_log, precision=3)
        self.speed = None
        if config.speeds != [100]:
            self.speed = SpeedPerturb(config.sample_rate, speeds=config.speeds, device=self.device)

    def compute_forward(self, batch, stage):
        """Log-probs of every exit and frame counts; training audio is sped up or slowed down."""
        batch = batch.to(self.device)
        wavs, relative = batch.sig
        if stage == sb.Stage.TRAIN and self.speed is not None:
            wavs = self.speed(wavs)
        return self.modules.model(wavs, n_samples_of(relative, wavs.shape[1]))

    def compute_objectives(self, predictions, batch, stage):
        """Weighted sum of the exits' CTC losses; on validation also counts word errors."""
        log_probs, n_frames = predictions
        tokens, relative = batch.tokens
        losses = exit_ctc_losses(
            log_probs,
            n_frames,
            tokens,
            n_samples_of(relative, tokens.shape[1]),
            blank_index=self.vocabulary.blank_index,
        )
        self.loss_sums += losses.detach().cpu()
        self.n_summed += 1
        if stage != sb.Stage.TRAIN:
            self._count_words(log_probs, n_frames, batch.words)
        return (losses * torch.tensor(self.weights, device=losses.device)).sum()

    def _count_words(self, log_probs, n_frames, references):
        self.n_words += sum(len(reference.split()) for reference in references)
        for e, exit_log_probs in enumerate(log_probs):
            decoded = greedy_decode(exit_log_probs, n_frames, blank_index=self.vocabulary.blank_index)
            for tokens, reference in zip(decoded, references, strict=True):
                self.errors[e] += sum(count_edits(reference, self.vocabulary.decode(tokens)))

    def init_optimizers(self):
        """AdamW for the encoder and AdamW for the heads, so that each is clipped (Brain clips first groups only)."""
        model = self.modules.model
        model = getattr(model, "module", model)
        groups = {"heads_optimizer": (model.heads.parameters(), self.config.heads_lr)}
        if not model.encoder_frozen:
            groups["encoder_optimizer"] = (model.encoder.parameters(), self.config.encoder_lr)
        self.peak_lr = {name: lr for name, (_, lr) in groups.items()}
        self.optimizers_dict = {
            name: torch.optim.AdamW(
                [p for p in parameters if p.requires_grad],
                lr=lr,
                betas=(0.9, 0.98),
                weight_decay=self.config.weight_decay,
            )
            for name, (parameters, lr) in groups.items()
        }
        if self.checkpointer is not None:
            for name, optimizer in self.optimizers_dict.items():
                self.checkpointer.add_recoverable(name, optimizer)

    def on_fit_batch_start(self, batch, should_step):
        """Learning rate of this update, from the share of all updates that are done."""
        done = (self.epoch - 1) * self.n_batches + self.step
        share = warmup_cosine(
            done / max(1, self.n_batches * self.config.n_epochs),
            warmup_share=self.config.warmup_share,
            final_share=self.config.final_lr_share,
        )
        for name, optimizer in self.optimizers_dict.items():
            optimizer.param_groups[0]["lr"] = share * self.peak_lr[name]

    def on_stage_start(self, stage, epoch=None):
        """Fresh sums."""
        n_exits = len(self.config.exit_layers)
        self.loss_sums, self.n_summed = torch.zeros(n_exits), 0
        self.errors, self.n_words = [0] * n_exits, 0
        if stage == sb.Stage.TRAIN:
            self.epoch = epoch
            # seeded by epoch: a resumed run draws what an uninterrupted one would have drawn
            torch.manual_seed(self.config.seed * 100003 + epoch)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log per exit, and checkpoint on the chosen word error rate."""
        layers = self.config.exit_layers
        losses = (self.loss_sums / max(1, self.n_summed)).tolist()
        by_exit = {f"loss_{layer}": loss for layer, loss in zip(layers, losses, strict=True)}
        if stage == sb.Stage.TRAIN:
            self.train_stats = {"loss": stage_loss, **by_exit}
            return
        wer = [100.0 * errors / max(1, self.n_words) for errors in self.errors]
        chosen = wer[-1] if self.config.select_on == "last" else sum(wer) / len(wer)
        wer_by_exit = {f"WER_{layer}": value for layer, value in zip(layers, wer, strict=True)}
        lr = next(iter(self.optimizers_dict.values())).param_groups[0]["lr"]
        self.logger.log_stats(
            {"epoch": epoch, "lr": lr},
            train_stats=self.train_stats,
            valid_stats={"loss": stage_loss, **by_exit, **wer_by_exit},
        )
        self.checkpointer.save_and_keep_only(
            meta={"WER": chosen, "epoch": epoch}, min_keys=["WER"], num_to_keep=self.config.average_checkpoints
        )
