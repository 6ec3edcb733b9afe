//! Random numbers, and random instructions without memory operands.

/// A generator of random numbers (Steele, Lea, Flood: SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    fn of(&mut self, bytes: &[u8]) -> u8 {
        bytes[self.next() as usize % bytes.len()]
    }

    /// Bytes that may be an instruction whose ModRM names registers only.
    pub fn register_form(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.byte() & 3 == 0 {
            bytes.push(self.of(&[0x66, 0x66, 0xF3, 0xF2]));
        }
        if self.byte() & 1 == 0 {
            bytes.push(0x40 | self.byte() & 0x0F);
        }
        match self.byte() & 15 {
            0 => bytes.extend([0xC5, self.byte()]),
            1 | 2 => {
                bytes.extend([0xC4, self.byte() & 0xE0 | self.of(&[1, 2, 3]), self.byte() & 0x83 | 0x78])
            }
            3 => bytes.extend([0xC4, self.byte() & 0xE0 | self.of(&[2, 3]), self.byte() & 0xFB]),
            4 => bytes.extend([0x62, self.byte() & 0xF0 | self.of(&[1, 2, 3]), self.byte() | 4, self.byte()]),
            5..8 => bytes.extend([0x0F, self.of(&[0x38, 0x3A])]),
            8..12 => bytes.push(0x0F),
            _ => {}
        }
        bytes.extend([self.byte(), self.byte() | 0xC0]);
        bytes.extend(self.next().to_le_bytes());
        bytes
    }
}
