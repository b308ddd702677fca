//! Messages bent at random from a fixed seed: the decoder answers every one of them, and never with a token.

use reeve_protocol::openstack::{decode, describe, documents};

use crate::sources::{self, TOKEN};

const ROUNDS: usize = 6_000;

/// xorshift64* (Vigna, <https://doi.org/10.1145/2845077>).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bound = u64::try_from(bound.max(1)).expect("a length fits 64 bits");
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound).expect("below a length")
    }
}

const PIECES: [&str; 16] = [
    "null",
    "[]",
    "{}",
    "\"\"",
    "{",
    "}",
    "[",
    "\\",
    "\"",
    "\\ud800",
    "1e999",
    "-0",
    "\u{0}",
    "\"nova_object.data\":7,",
    "\"uuid\":[],",
    "ä",
];

fn bend(text: &str, dice: &mut Dice) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len());
        let end = (at + dice.below(40)).min(bytes.len());
        match dice.below(6) {
            0 if at < bytes.len() => bytes[at] = u8::try_from(dice.below(256)).expect("a byte"),
            1 => bytes.truncate(at),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            4 => {
                let piece = PIECES[dice.below(PIECES.len())];
                bytes.splice(at..at, piece.bytes());
            }
            _ => value_after(&mut bytes, at, PIECES[dice.below(6)]),
        }
    }
    bytes
}

/// Puts another value after the next colon, so that much stays JSON and the decoder is reached behind the parser.
fn value_after(bytes: &mut Vec<u8>, at: usize, piece: &str) {
    let Some(colon) = bytes[at..].windows(2).position(|pair| pair == b"\":") else { return };
    let from = at + colon + 2;
    let to = bytes[from..].iter().position(|byte| matches!(byte, b',' | b'}')).map_or(bytes.len(), |end| from + end);
    bytes.splice(from..to, piece.bytes());
}

#[test]
fn no_bent_message_brings_the_decoder_down() {
    let samples = sources::all();
    let messages: Vec<String> = samples.iter().map(|sample| sample.message().to_string()).collect();
    let mut dice = Dice(0x5eed_0001);
    let (mut read, mut refused) = (0_usize, 0_usize);
    for round in 0..ROUNDS {
        let index = dice.below(samples.len());
        let result = match round % 3 {
            0 => format!("{:?}", decode(&bend(&samples[index].body, &mut dice))),
            1 => format!("{:?}", decode(&bend(&messages[index], &mut dice))),
            _ => {
                let bent = bend(&samples[index].document, &mut dice);
                let line = describe("f", documents(&bent)[0]);
                if line.refused() { format!("Err {line:?}") } else { format!("Ok {line:?}") }
            }
        };
        if result.starts_with("Ok") {
            read += 1;
        } else {
            refused += 1;
        }
        assert!(!result.contains(&TOKEN[..12]), "round {round} keeps a token: {result}");
    }
    assert!(read > ROUNDS / 20 && refused > ROUNDS / 20, "{read} read, {refused} refused: too lopsided to prove much");
}
