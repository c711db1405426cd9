//! One row to token ids with their loss mask.

use std::ops::Range;

use luthier_core::{StageError, StageResult};
use luthier_formats::chat_template::{ChatTemplate, RenderOptions};
use luthier_formats::dataset::DatasetShape;
use luthier_formats::tokenizer::Tokenizer;
use luthier_formats::tokens::TokenSample;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::config::{OnLong, TokenizeConfig, TrainOn, TrainOnEot};
use super::turns::{self, Turns, Wanted};

/// A row of any shape, borrowed from its batch.
#[derive(Debug, Clone, Copy)]
pub struct RowText<'a> {
    pub id: &'a str,
    /// The columns of the shape.
    pub texts: [&'a str; 2],
    pub tools: Option<&'a str>,
}

/// A rendered row as tokens, and the mask that grows over it.
struct Marks<'a> {
    ids: &'a [u32],
    offsets: &'a [Range<usize>],
    text: &'a str,
    mask: &'a mut [bool],
}

/// What one row became.
#[derive(Debug, Default)]
pub struct EncodedRow {
    pub samples: Vec<TokenSample>,
    pub notes: Notes,
}

/// What is worth counting; sums over rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// Over the length, and therefore left out.
    pub dropped_long: u64,
    /// Over the length, and cut.
    pub truncated: u64,
    /// Without a trained token, and therefore left out.
    pub untrained: u64,
    /// Refused by the template, and left out.
    pub refused: u64,
    /// Starts with BOS twice.
    pub double_bos: u64,
    /// Trained turns that do not end in a token that ends a turn.
    pub endless: u64,
    /// Turns to be trained whose place could not be told.
    pub lost_turns: u64,
    /// Rows with special tokens written out in a turn's text.
    pub special_in_text: u64,
}

impl Notes {
    pub fn add(&mut self, other: Self) {
        self.dropped_long += other.dropped_long;
        self.truncated += other.truncated;
        self.untrained += other.untrained;
        self.refused += other.refused;
        self.double_bos += other.double_bos;
        self.endless += other.endless;
        self.lost_turns += other.lost_turns;
        self.special_in_text += other.special_in_text;
    }
}

/// Everything that encoding needs; shared by all threads.
pub struct Encoder<'a> {
    pub config: &'a TokenizeConfig,
    pub tokenizer: &'a Tokenizer,
    /// `None` joins texts as they are.
    pub template: Option<&'a ChatTemplate>,
    pub shape: DatasetShape,
    /// Ends a plain text.
    pub eos: Option<u32>,
    /// Ends a turn: the model's end tokens.
    pub ends: Vec<u32>,
    /// How special tokens are written.
    pub special: Vec<String>,
}

impl Encoder<'_> {
    /// # Errors
    /// The template refuses the row or fails, the row is longer than allowed and that is to fail, or its messages are none.
    pub fn encode(&self, row: RowText<'_>) -> StageResult<EncodedRow> {
        let mut encoded = match (self.shape, self.template) {
            (DatasetShape::Text, _) => self.text(row)?,
            (DatasetShape::PromptCompletion, None) => self.plain_pair(row)?,
            (DatasetShape::PromptCompletion, Some(template)) => {
                let [prompt, completion] = row.texts;
                let messages =
                    [json!({"role": "user", "content": prompt}), json!({"role": "assistant", "content": completion})];
                self.chat(row, template, &messages)?
            }
            (DatasetShape::Chat, Some(template)) => {
                let messages: Value = serde_json::from_str(row.texts[0]).map_err(|error| {
                    StageError::input("tokenize::messages", "`messages` is not JSON").caused_by(error)
                })?;
                let Value::Array(messages) = messages else {
                    return Err(StageError::input("tokenize::messages", "`messages` is not a list"));
                };
                self.chat(row, template, &messages)?
            }
            (DatasetShape::Chat, None) => {
                return Err(StageError::input("tokenize::no_template", "chats need a template"));
            }
        };
        let samples = std::mem::take(&mut encoded.samples);
        for sample in samples {
            self.fit(sample, &mut encoded)?;
        }
        Ok(encoded)
    }

    fn text(&self, row: RowText<'_>) -> StageResult<EncodedRow> {
        let text = row.texts[0];
        let mut ids = self.tokenizer.encode(text, true)?;
        let mut notes = Notes::default();
        self.undouble_bos(&mut ids, &mut notes);
        self.push_eos(&mut ids);
        let mask = (0..ids.len()).map(|at| at > 0).collect();
        Ok(EncodedRow { samples: vec![TokenSample { id: row.id.to_owned(), ids, mask }], notes })
    }

    fn plain_pair(&self, row: RowText<'_>) -> StageResult<EncodedRow> {
        let [prompt, completion] = row.texts;
        let text = format!("{prompt}{completion}");
        let encoded = self.tokenizer.encode_with_offsets(&text, true)?;
        let start = if self.config.train_on == TrainOn::All { 0 } else { prompt.len() };
        let mut mask: Vec<bool> =
            encoded.offsets.iter().map(|range| range.start >= start && range.end > range.start).collect();
        let mut ids = encoded.ids;
        let mut notes = Notes::default();
        if self.undouble_bos(&mut ids, &mut notes) {
            mask.remove(0);
        }
        self.push_eos(&mut ids);
        mask.resize(ids.len(), true);
        Ok(EncodedRow { samples: vec![sample(row.id, ids, mask)], notes })
    }

    fn chat(&self, row: RowText<'_>, template: &ChatTemplate, messages: &[Value]) -> StageResult<EncodedRow> {
        let tools = match row.tools {
            Some(text) if !text.is_empty() => Some(serde_json::from_str(text).map_err(|error| {
                StageError::input("tokenize::tools", "the column `tools` is not JSON").caused_by(error)
            })?),
            _ => None,
        };
        let options = RenderOptions {
            add_generation_prompt: false,
            tools,
            date: self.config.date,
            variables: self.config.variables.clone(),
        };
        let wanted = Wanted { train_on: self.config.train_on, roles: &self.config.roles_to_train };
        let Turns { text, trained, lost } = turns::render(template, messages, &options, wanted)?;
        // The template writes BOS itself, as in transformers; the tokenizer must not add another.
        let encoded = self.tokenizer.encode_with_offsets(&text, false)?;
        let mut notes = Notes { lost_turns: lost as u64, ..Notes::default() };
        notes.special_in_text = u64::from(self.has_special(messages));
        let mut ids = encoded.ids;
        let mut mask = vec![false; ids.len()];
        for (turn, range) in trained.iter().enumerate() {
            let with_end = match self.config.train_on_eot {
                TrainOnEot::Turn => true,
                TrainOnEot::Last => turn + 1 == trained.len(),
                TrainOnEot::None => false,
            };
            let marks = Marks { ids: &ids, offsets: &encoded.offsets, text: &text, mask: &mut mask };
            self.train_range(range, with_end, marks, &mut notes);
        }
        if self.undouble_bos(&mut ids, &mut notes) {
            mask.remove(0);
        }
        Ok(EncodedRow { samples: vec![sample(row.id, ids, mask)], notes })
    }

    /// Trains the tokens that lie wholly in the range. A token that reaches in from before it belongs to the prompt: at
    /// inference it would not exist. Behind the token that ends the turn nothing is trained, since nothing there is ever
    /// generated.
    fn train_range(&self, range: &Range<usize>, with_end: bool, marks: Marks<'_>, notes: &mut Notes) {
        let Marks { ids, offsets, text, mask } = marks;
        let inside = |at: &usize| offsets[*at].start >= range.start && offsets[*at].end <= range.end;
        let first = offsets.partition_point(|offset| offset.start < range.start);
        let mut tokens: Vec<usize> =
            (first..ids.len()).take_while(|at| offsets[*at].start < range.end).filter(inside).collect();
        // Where only the content was found, the end token follows it.
        if let Some(next) = tokens.last().map_or(Some(first), |last| Some(last + 1))
            && next < ids.len()
            && self.is_end(ids[next])
            && tokens.last().is_none_or(|last| !self.is_end(ids[*last]))
            && offsets[next].start == range.end
        {
            tokens.push(next);
        }
        let last_end = tokens.iter().rposition(|at| self.is_end(ids[*at]));
        match last_end {
            Some(last) if tokens[last + 1..].iter().all(|at| text[offsets[*at].clone()].trim().is_empty()) => {
                tokens.truncate(last + usize::from(with_end));
            }
            _ if with_end && self.config.train_on != TrainOn::All => notes.endless += 1,
            _ => {}
        }
        for at in tokens {
            mask[at] = true;
        }
    }

    fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    fn has_special(&self, messages: &[Value]) -> bool {
        let texts = messages.iter().filter_map(|message| message.get("content")?.as_str());
        texts.into_iter().any(|text| self.special.iter().any(|token| text.contains(token.as_str())))
    }

    /// Takes out a second BOS at the front; true if there was one.
    fn undouble_bos(&self, ids: &mut Vec<u32>, notes: &mut Notes) -> bool {
        let doubled = self.tokenizer.bos_id().is_some_and(|bos| ids.len() > 1 && ids[0] == bos && ids[1] == bos)
            // Where BOS is also what ends a turn, two in a row may be meant.
            && !self.ends.contains(&ids[0]);
        if doubled {
            ids.remove(0);
            notes.double_bos += 1;
        }
        doubled
    }

    fn push_eos(&self, ids: &mut Vec<u32>) {
        if let Some(eos) = self.eos
            && ids.last() != Some(&eos)
        {
            ids.push(eos);
        }
    }

    /// Applies the length, and drops what has nothing to train.
    fn fit(&self, mut sample: TokenSample, encoded: &mut EncodedRow) -> StageResult<()> {
        let most = self.config.max_length;
        let length = sample.ids.len();
        if length > most {
            match self.config.on_long {
                OnLong::Drop => {
                    encoded.notes.dropped_long += 1;
                    return Ok(());
                }
                OnLong::Truncate => {
                    encoded.notes.truncated += 1;
                    sample.ids.truncate(most);
                    sample.mask.truncate(most);
                }
                OnLong::Split => {
                    for (part, (ids, mask)) in sample.ids.chunks(most).zip(sample.mask.chunks(most)).enumerate() {
                        let id = format!("{}.{part}", sample.id);
                        self.keep(self::sample(&id, ids.to_vec(), mask.to_vec()), encoded);
                    }
                    return Ok(());
                }
                OnLong::Fail => {
                    return Err(StageError::input(
                        "tokenize::too_long",
                        format!("the sample has {length} tokens, more than `max_length: {most}`"),
                    )
                    .hint(format!("raise `max_length` to {length}, or set `on_long:` to `drop` or `truncate`")));
                }
            }
        }
        self.keep(sample, encoded);
        Ok(())
    }

    fn keep(&self, sample: TokenSample, encoded: &mut EncodedRow) {
        if sample.trained() == 0 {
            encoded.notes.untrained += 1;
        } else {
            encoded.samples.push(sample);
        }
    }
}

/// A sample whose first token, predicted from nothing, is not trained.
fn sample(id: &str, ids: Vec<u32>, mut mask: Vec<bool>) -> TokenSample {
    if let Some(first) = mask.first_mut() {
        *first = false;
    }
    TokenSample { id: id.to_owned(), ids, mask }
}
