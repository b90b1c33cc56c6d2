"""What `lib.own_encoder_check` can find wrong with an encoder: a sentence each, what is wrong and what to do."""

SENTENCES = {
    "no module": "The encoder is of type {found} and no torch.nn.Module, so the store cannot tell its weights from "
    "others; derive its class from torch.nn.Module.",
    "member": "The encoder has no `{name}`; give it one, as in `lib.own_encoder.FrozenEncoder`.",
    "grid": "`grid` is {found}; it must be two whole numbers of at least 1, the steps in time and the rows in "
    "frequency of a clip.",
    "front end key": "`front_end` is {found}, which cannot be compared or is another in every process; make it a "
    'tuple of numbers and strings, say ("log-mel", 64, 20.0).',
    "weights": "The weight '{name}' is {found}, and the store needs weights on the CPU, in a type that numpy has "
    "too; call encoder.float().cpu().",
    "gradients": "{count} parameter tensors still take gradients, but an encoder is frozen; call "
    "encoder.requires_grad_(False).",
    # ---- from waveform to spectrogram
    "spectrogram fails": "`spectrogram` stops at {shape} float32 samples at 16000 Hz in a numpy array ({error}); it "
    "must take a batch of clips as the datasets hand it over.",
    "spectrogram type": "`spectrogram` returns an object of type {found}; it must return a torch tensor.",
    "spectrogram clips": "`spectrogram` returns shape {shape} for {clips} clips; the first axis must be the clips, "
    "as in (B, frames, mel).",
    "spectrogram alone": "`spectrogram` stops at a single clip, or gives it another shape than in a batch ({error});"
    " look for a .squeeze() that drops the axis of the clips.",
    "spectrogram dtype": "`spectrogram` returns {found}, and whoever shares a front end expects torch.float32; end "
    "it with .float().",
    "spectrogram values": "The spectrogram of an ordinary clip holds NaN or infinite values; put a floor under the "
    "power before the logarithm is taken.",
    "waveform changed": "`spectrogram` changes the waveform that it is given, and the next encoder is given the "
    "same; work on a copy, and avoid operations in place.",
    "rate": "`spectrogram` takes samples at 8000 Hz for samples at 16000 Hz; let it raise an error at any rate but "
    "its own, or resample.",
    "spectrogram random": "Two spectrograms of one clip differ; switch off dither and every augmentation.",
    "spectrogram batch": "The spectrogram of a clip depends on the other clips of its batch; normalise with "
    "constants, or each clip by itself.",
    "shared front end": "`front_end` is that of '{name}', but the spectrogram is another, and the store would hand "
    "one of them to both; choose a key of its own.",
    # ---- from spectrogram to tokens
    "call fails": "The encoder stops at its own spectrogram of shape {shape} ({error}); mend that first.",
    "no encoding": "The encoder returns an object of type {found} without `{name}`; return "
    "lib.encoders.vit.Encoding(tokens, cls, grid).",
    "tokens type": "`tokens` is of type {found}; it must be a tensor of floating-point numbers.",
    "tokens rank": "`tokens` has shape {shape}; it must be (B, N, D), so flatten the map: x.flatten(2).transpose(1, "
    "2) if it is (B, D, S_t, S_f).",
    "tokens clips": "`tokens` has shape {shape} for {clips} clips; the first axis must be the clips.",
    "tokens transposed": "`tokens` has shape {shape}, which is (B, D, N); call .transpose(1, 2), for the dimension "
    "comes last.",
    "cls among tokens": "There are {found} tokens, one more than the {wanted} places of the grid, so a [cls] seems "
    "to be left among them; if it is the first, hand over x[:, 1:] as tokens and x[:, 0] as cls.",
    "tokens count": "There are {found} tokens, but a grid of {grid} has {wanted} places; drop what is no patch "
    "(registers, padding), or correct `grid`.",
    "encoding grid": "The encoding's grid is {found} and the encoder's `grid` is {wanted}; make them agree.",
    "cls shape": "`cls` has shape {found}; it must be (B, D) = {wanted}, or None where the model has none.",
    "cls is a token": "`cls` is the first token; if it is a [cls], take it out of the tokens, and if the model has "
    "none, return None, for which the mean token will stand.",
    "options": "The encoder does not take attention=True and layers=(0,) ({error}); accept both, and ignore what the"
    " model does not have.",
    "attention": "With attention=True the encoding's attention has shape {found}; it must be (B, depth, heads, N) = "
    "({clips}, depth, heads, {places}), or None.",
    # ---- values
    "values": "In an ordinary clip {name} holds NaN or infinite values; look for a division by zero or an overflow.",
    "too large": "The values of {name} reach {found:.3g}, but the store keeps half precision, which ends at 65504; "
    "apply the model's final norm, or divide by a constant.",
    "lost": "In half precision, which the store keeps, {name} would be wrong by {found:.1%} of the spread between "
    "clips, for the values are tiny or far from zero; subtract a constant and divide by another.",
    "silence fails": "The encoder stops at a silent clip ({error}); let it pass, for silence occurs.",
    "silence values": "A silent clip gives NaN or infinite values; put a floor under the logarithm, and under "
    "whatever is divided by.",
    "random": "Two passes of one clip differ; {hint}.",
    "changes itself": "A pass changes the encoder's own '{name}'; {hint}.",
    "spectrogram changed": "The encoder changes the spectrogram that it is given, and the next encoder is given the "
    "same; avoid operations in place.",
    "alone": "The encoder stops at a single clip, or gives it tokens of another shape than in a batch ({error}); "
    "look for a .squeeze() that drops the axis of the clips.",
    "batch": "The tokens of a clip depend on the other clips of its batch; {hint}.",
    "same clips": "All clips have the same {name}, so the sound does not arrive there; look for weights that were "
    "not loaded, or for a step that ends in a constant.",
    "same places": "All tokens of a clip are the same, so they say nothing about where; hand over the map before it "
    "is pooled.",
    # ---- order
    "hears a part": "Of sounds that were spread over {seconds:g} s the encoder hears fewer than three, so it listens"
    " to a part of the clips; let `spectrogram` take in their whole length, or give `check_encoder` theirs in "
    "`seconds`.",
    "frequency-major": "The tokens come row by row of frequency (n = f·S_t + t); bring time first (n = t·S_f + f), "
    "by transposing the two axes of the map before it is flattened.",
    "grid swapped": "The tokens are in order, but `grid` is (S_f, S_t); make it (S_t, S_f) = {turned}.",
    "both swapped": "The tokens come row by row of frequency, and `grid` is (S_f, S_t); transpose the map before it "
    "is flattened, and make `grid` (S_t, S_f) = {turned}.",
    "time": "A burst of noise that is moved in time does not move along t; check the order of the tokens, and "
    "whether each still belongs to a place.",
    "time backwards": "Time runs backwards, for a later burst shows in earlier tokens; flip the time axis.",
    "frequency": "A tone that is changed in pitch does not move along f; check the order of the tokens, or make "
    "`grid` (N, 1) if each of them hears all frequencies.",
    "frequency downwards": "Frequency runs downwards, for a higher tone shows at a lower f; flip the frequency axis,"
    " so that f = 0 is the lowest.",
}
TRAINING = "it is in training mode, so call encoder.eval()"  # the hint where that may be the reason
