"""Sets that ExitBench knows, and what is known of them: numbers only, written by benchmarks/exit_traces.py.

A set is recognised by `score_choices.set_digest`. `wer_at`: WER in percent by budget in layers, cross-fitted.
"""

from typing import Any

# fmt: off
KNOWN_SETS: dict[str | None, str] = {
    "092db45c02a5149b8048c7fe0e9b6733d5656d31860f1e84cab454f7affaa447": "LibriSpeech test-clean",
    "a15359f1c65241b5acc4b3ec7725a5aa3ea7025e74db06e9bc7a31d1f688bcee": "LibriSpeech test-other",
}

BASELINES: dict[str | None, list[dict[str, Any]]] = {
    "LibriSpeech test-clean": [
        {"name": "wav2vec2-base nonee12", "kind": "single exit",
         "wer_at": {12: 3.74}},
        {"name": "wav2vec2-base ee40, entropy", "kind": "policy",
         "wer_at": {5: 12.56, 6: 9.23, 7: 7.13, 8: 5.72, 9: 4.91, 10: 4.55, 11: 4.37, 12: 4.36}},
        {"name": "wav2vec2-base ee40, patience(1)", "kind": "policy",
         "wer_at": {5: 12.53, 6: 9.24, 7: 7.12, 8: 5.7, 9: 5.01, 10: 4.6, 11: 4.59, 12: 4.35}},
        {"name": "wav2vec2-base ee40, between(entropy)", "kind": "policy",
         "wer_at": {5: 12.59, 6: 9.27, 7: 7.13, 8: 5.67, 9: 4.84, 10: 4.46, 11: 4.38, 12: 4.36}},
        {"name": "wav2vec2-base ee40, between(patience(1))", "kind": "policy",
         "wer_at": {5: 12.52, 6: 9.13, 7: 6.92, 8: 5.52, 9: 4.64, 10: 4.51, 11: 4.36, 12: 4.36}},
        {"name": "wav2vec2-base ee40, between(nbest)", "kind": "policy",
         "wer_at": {5: 12.72, 6: 9.71, 7: 6.96, 8: 5.62, 9: 4.79, 10: 4.47, 11: 4.42, 12: 4.36}},
        {"name": "wav2vec2-base ee40, lexical", "kind": "policy",
         "wer_at": {5: 12.05, 6: 8.74, 7: 6.55, 8: 5.38, 9: 4.72, 10: 4.44, 11: 4.36, 12: 4.33}},
        {"name": "wav2vec2-base ee40, between(lexical)", "kind": "policy",
         "wer_at": {5: 11.89, 6: 8.64, 7: 6.43, 8: 5.2, 9: 4.6, 10: 4.42, 11: 4.34, 12: 4.34}},
        {"name": "wav2vec2-base ee40, gain", "kind": "policy",
         "wer_at": {5: 11.77, 6: 8.59, 7: 6.41, 8: 5.17, 9: 4.55, 10: 4.36, 11: 4.34, 12: 4.35}},
        {"name": "wav2vec2-base ee40, gain_text", "kind": "policy",
         "wer_at": {5: 11.84, 6: 8.56, 7: 6.47, 8: 5.17, 9: 4.56, 10: 4.37, 11: 4.33, 12: 4.33}},
        {"name": "wav2vec2-base ee40, gain_words", "kind": "policy",
         "wer_at": {5: 11.49, 6: 8.16, 7: 6.12, 8: 5.03, 9: 4.52, 10: 4.37, 11: 4.36, 12: 4.36}},
        {"name": "wav2vec2-base ee40, gain_words_text", "kind": "policy",
         "wer_at": {5: 11.48, 6: 8.19, 7: 6.1, 8: 4.99, 9: 4.52, 10: 4.34, 11: 4.35, 12: 4.37}},
        {"name": "wav2vec2-base ee40, gain + fusion", "kind": "policy",
         "wer_at": {5: 11.39, 6: 8.29, 7: 6.26, 8: 5.04, 9: 4.44, 10: 4.25, 11: 4.21, 12: 4.21}},
        {"name": "wav2vec2-base ee40, gain_words + fusion", "kind": "policy",
         "wer_at": {5: 11.2, 6: 8.0, 7: 6.04, 8: 4.97, 9: 4.42, 10: 4.28, 11: 4.24, 12: 4.24}},
    ],
    "LibriSpeech test-other": [
        {"name": "wav2vec2-base nonee12", "kind": "single exit",
         "wer_at": {12: 9.86}},
        {"name": "wav2vec2-base ee40, entropy", "kind": "policy",
         "wer_at": {5: 29.52, 6: 23.63, 7: 19.14, 8: 16.07, 9: 13.99, 10: 12.76, 11: 12.35, 12: 12.25}},
        {"name": "wav2vec2-base ee40, patience(1)", "kind": "policy",
         "wer_at": {5: 29.68, 6: 23.89, 7: 19.29, 8: 16.26, 9: 14.1, 10: 13.01, 11: 12.45, 12: 12.24}},
        {"name": "wav2vec2-base ee40, between(entropy)", "kind": "policy",
         "wer_at": {5: 29.15, 6: 23.32, 7: 18.71, 8: 15.67, 9: 13.76, 10: 12.59, 11: 12.31, 12: 12.26}},
        {"name": "wav2vec2-base ee40, between(patience(1))", "kind": "policy",
         "wer_at": {5: 29.32, 6: 23.42, 7: 18.94, 8: 15.79, 9: 13.66, 10: 12.59, 11: 12.34, 12: 12.25}},
        {"name": "wav2vec2-base ee40, between(nbest)", "kind": "policy",
         "wer_at": {5: 29.57, 6: 23.68, 7: 19.17, 8: 15.86, 9: 13.59, 10: 12.59, 11: 12.35, 12: 12.25}},
        {"name": "wav2vec2-base ee40, lexical", "kind": "policy",
         "wer_at": {5: 29.24, 6: 23.37, 7: 19.0, 8: 15.81, 9: 13.81, 10: 12.68, 11: 12.27, 12: 12.25}},
        {"name": "wav2vec2-base ee40, between(lexical)", "kind": "policy",
         "wer_at": {5: 28.79, 6: 22.92, 7: 18.28, 8: 15.32, 9: 13.3, 10: 12.59, 11: 12.27, 12: 12.23}},
        {"name": "wav2vec2-base ee40, gain", "kind": "policy",
         "wer_at": {5: 28.97, 6: 22.94, 7: 18.38, 8: 15.22, 9: 13.3, 10: 12.53, 11: 12.26, 12: 12.24}},
        {"name": "wav2vec2-base ee40, gain_text", "kind": "policy",
         "wer_at": {5: 28.96, 6: 23.02, 7: 18.45, 8: 15.31, 9: 13.3, 10: 12.54, 11: 12.28, 12: 12.23}},
        {"name": "wav2vec2-base ee40, gain_words", "kind": "policy",
         "wer_at": {5: 28.27, 6: 22.37, 7: 18.02, 8: 14.92, 9: 13.13, 10: 12.43, 11: 12.22, 12: 12.2}},
        {"name": "wav2vec2-base ee40, gain_words_text", "kind": "policy",
         "wer_at": {5: 28.34, 6: 22.3, 7: 17.98, 8: 14.92, 9: 13.13, 10: 12.41, 11: 12.22, 12: 12.2}},
        {"name": "wav2vec2-base ee40, gain + fusion", "kind": "policy",
         "wer_at": {5: 28.46, 6: 22.44, 7: 17.97, 8: 14.81, 9: 12.95, 10: 12.14, 11: 11.84, 12: 11.8}},
        {"name": "wav2vec2-base ee40, gain_words + fusion", "kind": "policy",
         "wer_at": {5: 27.89, 6: 22.0, 7: 17.68, 8: 14.64, 9: 12.85, 10: 12.11, 11: 11.83, 12: 11.8}},
    ],
}
