//! Generation with a key-value cache.

use luthier_core::StageResult;
use luthier_kernels::device::{
    Buffer, Component, Device, DeviceExt, Draw, FloatType, KeyValues, Operation, Sampling, Values, ValuesMut,
};
use luthier_kernels::random::Stream;

use super::LanguageModel;
use crate::decoder::{Capacity, Decoder, Pass, Uploaded, Workspace};
use crate::error::device_error;
use crate::train::overflow;

/// Sequences that are generated together, at most.
const BATCH: usize = 64;
/// Positions, prompts and room for new tokens together, that are cached at once, unless one sequence alone needs more.
const CACHED: usize = 8192;

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// A stop token came; it is not part of the text.
    Token(u32),
    /// The limit of new tokens, or the model's last position, was reached.
    Length,
}

/// A continuation of one prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    pub tokens: Vec<u32>,
    pub stop: Stop,
}

/// How tokens are drawn. What a prompt gets depends on the seed and its own number among the prompts, not on the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    pub sampling: Sampling,
    pub seed: u64,
}

impl Sampler {
    /// The number for token `token` of prompt `prompt`.
    fn random(&self, prompt: usize, token: usize) -> u64 {
        let [high, low, ..] = Stream::new(self.seed, &format!("prompt {prompt}")).block(token as u64);
        u64::from(high) << 32 | u64::from(low)
    }
}

/// The token chosen for each row, and the numbers they are drawn with, on the device.
struct Chosen {
    ids: Buffer<u32>,
    random: Buffer<u64>,
}

/// Keys and values of a batch, per layer `[sequence, capacity, kv_heads · head_dim]`.
struct Cache {
    keys: Vec<Buffer<u8>>,
    values: Vec<Buffer<u8>>,
    lengths: Buffer<u32>,
    kind: FloatType,
    capacity: usize,
    width: usize,
}

impl Cache {
    fn new(decoder: &Decoder, sequences: usize, capacity: usize) -> StageResult<Self> {
        let device = decoder.device.as_ref();
        let width = decoder.config.key_value_size();
        let kind = device.activation_type();
        let bytes = sequences * capacity * width * kind.bytes();
        let layer = || device.buffer(Component::Cache, bytes).map_err(device_error);
        Ok(Self {
            keys: (0..decoder.config.layers).map(|_| layer()).collect::<StageResult<_>>()?,
            values: (0..decoder.config.layers).map(|_| layer()).collect::<StageResult<_>>()?,
            lengths: device.buffer(Component::Scratch, sequences).map_err(device_error)?,
            kind,
            capacity,
            width,
        })
    }

    /// Stores `rows` rows of `keys` and `values` from row `position` of a sequence on.
    fn store(
        &mut self,
        device: &dyn Device,
        layer: usize,
        sequence: usize,
        position: usize,
        [keys, values]: [Values<'_>; 2],
    ) {
        let start = (sequence * self.capacity + position) * self.width;
        let end = start + keys.len();
        device.copy(keys, ValuesMut::new(self.keys[layer].all_mut(), self.kind).slice(start..end));
        device.copy(values, ValuesMut::new(self.values[layer].all_mut(), self.kind).slice(start..end));
    }
}

/// One sequence in progress.
struct Running {
    prompt: usize,
    /// Row in the cache.
    row: usize,
    /// Positions filled.
    length: usize,
    next: u32,
}

impl LanguageModel {
    /// The most likely continuation of each prompt, token by token (ties go to the lower id), until a stop token, `limit`
    /// new tokens or the last position. A prompt that is empty or fills all positions gives an empty text.
    ///
    /// # Errors
    /// Tokens outside the vocabulary, a prompt that is too long, out of memory.
    pub fn generate_greedy<P: AsRef<[u32]> + Sync>(
        &mut self,
        prompts: &[P],
        limit: usize,
        stop: &[u32],
    ) -> StageResult<Vec<Generated>> {
        self.generate(prompts, limit, stop, None)
    }

    /// As [`LanguageModel::generate_greedy`], with tokens that are drawn if there is a sampler.
    ///
    /// # Errors
    /// Those of [`LanguageModel::generate_greedy`].
    pub fn generate<P: AsRef<[u32]> + Sync>(
        &mut self,
        prompts: &[P],
        limit: usize,
        stop: &[u32],
        sampler: Option<Sampler>,
    ) -> StageResult<Vec<Generated>> {
        let mut all = Vec::with_capacity(prompts.len());
        let prompts: Vec<&[u32]> = prompts.iter().map(AsRef::as_ref).collect();
        while all.len() < prompts.len() {
            let (first, rest) = (all.len(), &prompts[all.len()..]);
            let chunk = &rest[..fitting(rest, limit)];
            let random = |prompt: usize, token: usize| sampler.map(|sampler| sampler.random(first + prompt, token));
            let sampling = sampler.map(|sampler| sampler.sampling);
            all.extend(self.inside(|this| this.generate_chunk(chunk, limit, stop, sampling, &random))?);
        }
        Ok(all)
    }

    fn generate_chunk(
        &mut self,
        prompts: &[&[u32]],
        limit: usize,
        stop: &[u32],
        sampling: Option<Sampling>,
        random: &(dyn Fn(usize, usize) -> Option<u64> + Sync),
    ) -> StageResult<Vec<Generated>> {
        let empty = Generated { tokens: Vec::new(), stop: Stop::Length };
        let mut done: Vec<Generated> = prompts.iter().map(|_| empty.clone()).collect();
        let used: Vec<usize> = (0..prompts.len()).filter(|index| !prompts[*index].is_empty()).collect();
        if used.is_empty() || limit == 0 {
            return Ok(done);
        }
        self.batch.clear();
        for index in &used {
            self.batch.push(prompts[*index], &vec![false; prompts[*index].len()]);
        }
        self.batch.check(self.decoder.config.vocab_size, self.decoder.positions)?;
        self.batch.share_prefix();
        let tokens = self.batch.tokens();
        self.reserve(Capacity {
            tokens: tokens.max(used.len()),
            trained: BATCH,
            sequences: used.len(),
            whole: if self.batch.sharing.is_some() { self.batch.whole_tokens() } else { 0 },
        })?;
        let Self { decoder, adapter, workspace: Some(workspace), batch } = self else { unreachable!("reserved") };
        let adapter = adapter.as_ref();
        let device = decoder.device.clone();
        let capacity = (batch.longest() + limit).min(decoder.positions);
        let mut cache = Cache::new(decoder, used.len(), capacity)?;
        let decoding = Operation::AttentionDecode(decoder.attention_shape(), used.len(), capacity);
        device.reserve(&[decoding]).map_err(device_error)?;
        let mut choice = Chosen {
            ids: device.buffer(Component::Scratch, used.len()).map_err(device_error)?,
            random: device.buffer(Component::Scratch, used.len()).map_err(device_error)?,
        };

        let uploaded = workspace.upload_scored(device.as_ref(), batch);
        let width = cache.width;
        workspace.forward(decoder, adapter, None, uploaded, &mut |layer, saved| {
            let mut store = |row: usize, position: usize, kept: std::ops::Range<usize>| {
                let range = kept.start * width..kept.end * width;
                let pair = [saved.key.freeze().slice(range.clone()), saved.value.freeze().slice(range)];
                cache.store(device.as_ref(), layer, row, position, pair);
            };
            for row in 0..batch.sequences() {
                let (shared, own) = batch.kept_rows(row);
                store(row, 0, shared.clone());
                store(row, shared.len(), own);
            }
        });
        let last: Vec<u32> = (0..batch.sequences()).map(|row| batch.kept_rows(row).1.end as u32 - 1).collect();
        let numbers: Vec<u64> = used.iter().filter_map(|prompt| random(*prompt, 0)).collect();
        let mut chosen = choose(workspace, decoder, uploaded, &last, &mut choice, sampling, &numbers)?;
        let mut running: Vec<Running> = used
            .iter()
            .enumerate()
            .map(|(row, prompt)| Running { prompt: *prompt, row, length: prompts[*prompt].len(), next: chosen[row] })
            .collect();
        loop {
            running.retain(|sequence| {
                let out = &mut done[sequence.prompt];
                if stop.contains(&sequence.next) {
                    out.stop = Stop::Token(sequence.next);
                    return false;
                }
                out.tokens.push(sequence.next);
                out.tokens.len() < limit && sequence.length < capacity
            });
            if running.is_empty() {
                return Ok(done);
            }
            compact(&mut running, &mut cache, device.as_ref());
            let uploaded = decode_step(workspace, decoder, adapter, &mut cache, &mut running);
            let rows: Vec<u32> = (0..running.len() as u32).collect();
            let next = |sequence: &Running| random(sequence.prompt, done[sequence.prompt].tokens.len());
            let numbers: Vec<u64> = running.iter().filter_map(next).collect();
            chosen = choose(workspace, decoder, uploaded, &rows, &mut choice, sampling, &numbers)?;
            for (sequence, next) in running.iter_mut().zip(&chosen) {
                sequence.next = *next;
                sequence.length += 1;
            }
        }
    }
}

/// How many of the first of `prompts` are generated together: at least one.
fn fitting(prompts: &[&[u32]], limit: usize) -> usize {
    let mut cached = 0;
    let fits = prompts.iter().take(BATCH).take_while(|prompt| {
        cached += prompt.len() + limit;
        cached <= CACHED
    });
    fits.count().max(1)
}

/// Moves sequences down so that they fill the first rows of the cache.
fn compact(running: &mut [Running], cache: &mut Cache, device: &dyn Device) {
    for (row, sequence) in running.iter_mut().enumerate() {
        if sequence.row == row {
            continue;
        }
        let stride = cache.capacity * cache.width;
        let len = sequence.length * cache.width;
        for buffer in cache.keys.iter_mut().chain(&mut cache.values) {
            let all = ValuesMut::new(buffer.all_mut(), cache.kind);
            let (low, high) = all.split_at(sequence.row * stride);
            device.copy(high.freeze().slice(..len), low.slice(row * stride..row * stride + len));
        }
        sequence.row = row;
    }
}

/// One token for each running sequence; its hidden state ends in the workspace.
fn decode_step(
    workspace: &mut Workspace,
    decoder: &Decoder,
    adapter: Option<&crate::adapter::AdapterSet>,
    cache: &mut Cache,
    running: &mut [Running],
) -> Uploaded {
    let device = decoder.device.as_ref();
    let count = running.len();
    let ids: Vec<u32> = running.iter().map(|sequence| sequence.next).collect();
    let positions: Vec<u32> = running.iter().map(|sequence| sequence.length as u32).collect();
    let lengths: Vec<u32> = positions.iter().map(|position| position + 1).collect();
    device.write(&lengths, cache.lengths.slice_mut(..count));
    workspace.step(decoder, adapter, &ids, &positions, &mut |pass: &Pass<'_>, layer, saved| {
        for (row, sequence) in running.iter().enumerate() {
            let range = row * cache.width..(row + 1) * cache.width;
            let pair = [saved.key.freeze().slice(range.clone()), saved.value.freeze().slice(range)];
            cache.store(device, layer, row, sequence.length, pair);
        }
        let used = count * cache.capacity * cache.width;
        let view = KeyValues {
            keys: Values::new(cache.keys[layer].all(), cache.kind).slice(..used),
            values: Values::new(cache.values[layer].all(), cache.kind).slice(..used),
            capacity: cache.capacity,
            lengths: cache.lengths.slice(..count),
        };
        device.attention_decode(saved.query.freeze(), view, pass.decoder.attention_shape(), saved.attended.borrow());
    })
}

/// The next token after each of `rows`, chosen on the device.
fn choose(
    workspace: &mut Workspace,
    decoder: &Decoder,
    uploaded: Uploaded,
    rows: &[u32],
    Chosen { ids, random }: &mut Chosen,
    sampling: Option<Sampling>,
    numbers: &[u64],
) -> StageResult<Vec<u32>> {
    let vocabulary = decoder.config.vocab_size;
    let device = decoder.device.as_ref();
    device.write(numbers, random.slice_mut(..numbers.len()));
    let mut start = 0;
    // An infinity in a row's hidden state is in all of its logits.
    let narrow = device.activation_type() == FloatType::F16;
    let mut finite = true;
    workspace.logits(decoder, uploaded, rows, &mut |device, logits| {
        let range = start..start + logits.len() / vocabulary;
        start = range.end;
        for row in 0..if narrow { range.len() } else { 0 } {
            let mut first = [0.0];
            device.read(logits.slice(row * vocabulary..row * vocabulary + 1), &mut first);
            finite &= first[0].is_finite();
        }
        let draw = sampling.map(|sampling| Draw { sampling, random: random.slice(range.clone()) });
        device.choose_tokens(logits, vocabulary, draw, ids.slice_mut(range));
    });
    let mut chosen = vec![0; rows.len()];
    device.read(ids.slice(..rows.len()), &mut chosen);
    if finite { Ok(chosen) } else { Err(overflow::error("the likelihood of a token is not finite", None)) }
}
