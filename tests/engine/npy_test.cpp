#include "engine/io/npy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <string>

#include "engine/io/file.h"
#include "engine/io/safetensors.h"
#include "tests/fuzz/format_check.h"
#include "tests/harness/op_check.h"
#include "tests/harness/program.h"

namespace sidechannel {
namespace {

using fuzz::array;
using fuzz::BadFile;
using fuzz::Bytes;
using fuzz::bytes_of;
using fuzz::expect_equal;
using harness::error_of;

// A file of this header, with `data` zero bytes behind it.
Bytes file_of(std::string_view header, std::size_t data = 0, char major = 1, char minor = 0) {
  std::string text = "\x93NUMPY";
  text += {major, minor};
  const auto length = static_cast<std::uint32_t>(header.size());
  text.append(reinterpret_cast<const char*>(&length), major == 1 ? 2 : 4);
  return bytes_of(text.append(header).append(data, '\0'));
}

std::string header_of(std::string_view descr, std::string_view order, std::string_view shape) {
  return fmt::format("{{'descr': {}, 'fortran_order': {}, 'shape': {}, }}\n", descr, order, shape);
}

// Every type, ranks 0 to 4, an empty array.
std::vector<HostArray> samples() {
  return {array<float>({1, -2, 3.5f, 0, 1e-30f, -0.0f}, {1, 3, 2}),
          array<double>({0.1}, {}),
          array<std::int64_t>({-1, 1LL << 40}, {2}),
          array<std::int32_t>({7, -8, 9}, {3, 1}),
          array<std::uint8_t>({0, 255, 128}, {1, 1, 3, 1}),
          array<bool>({true, false, true}, {3}),
          HostArray(DType::kF32, {2, 0, 3})};
}

TEST(Npy, ReadsWhatItWrites) {
  for (const HostArray& sample : samples()) {
    const Bytes bytes = serialize_npy(sample);
    expect_equal(parse_npy(bytes, "f"), sample);
    EXPECT_EQ((bytes.size() - sample.bytes.size()) % 64, 0u);
  }
}

TEST(Npy, WritesTheBytesThatNumPyWrites) {
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }";
  header += std::string(117 - header.size(), ' ') + "\n";
  EXPECT_EQ(serialize_npy(HostArray(DType::kF32, {3})), file_of(header, 12));
}

TEST(Npy, ReadsAndWritesFiles) {
  const harness::TemporaryFolder folder;
  const std::filesystem::path path = folder.path() / "curve.npy";
  write_npy(path, samples().front());
  expect_equal(read_npy(path), samples().front());
  for (const HostArray& sample : samples()) {
    write_npy(path, sample);
    EXPECT_EQ(npy_header(path).dtype, sample.dtype);
    EXPECT_EQ(npy_header(path).shape, sample.shape);
  }
  write_file_durably(path, file_of(header_of("'>i2'", "True", "(2, 3)"), 12));
  EXPECT_EQ(npy_header(path).dtype, DType::kI32);  // what it is read as
  write_file_durably(path, bytes_of("\x93NUM"));
  EXPECT_EQ(error_of([&] { read_npy(path); }),
            path.string() + ": expected 6 bytes of magic, got 4");
  HostArray bad = samples().front();
  bad.bytes.pop_back();
  EXPECT_EQ(error_of([&] { write_npy(path, bad); }),
            path.string() + ": cannot write an array: expected 24 bytes for [1, 3, 2], got 23");
}

TEST(Npy, ReadsFilesOfOtherWriters) {
  const HostArray expected(DType::kF32, {2, 3});
  for (const std::string& header :
       {header_of("'<f4'", "False", "(2, 3)"), header_of("\"<f4\"", "False", "(2,3,)"),
        std::string("{'shape':(2,3),'fortran_order':False,'descr':'<f4'}\n"),
        std::string(" { 'shape' : ( 2 , 3 ) , 'descr' : '<f4' , 'fortran_order' : False }   \n")}) {
    for (const char major : {'\1', '\2', '\3'}) {
      expect_equal(parse_npy(file_of(header, 24, major), "f"), expected);
    }
  }
  // A header longer than version 1.0 can say.
  const std::string padding(100'000, ' ');
  expect_equal(parse_npy(file_of(padding + header_of("'<f4'", "False", "(2, 3)"), 24, 2), "f"),
               expected);
}

// Of every kind of number that np.save writes: the values that NumPy reads, and our type.
TEST(Npy, ReadsWhatNumPyWrites) {
  const std::map<std::string, DType> types = {
      {"f2", DType::kF32}, {"f4", DType::kF32}, {"f8", DType::kF64}, {"i1", DType::kI32},
      {"i2", DType::kI32}, {"i4", DType::kI32}, {"i8", DType::kI64}, {"u1", DType::kU8},
      {"u2", DType::kI32}, {"u4", DType::kI64}, {"u8", DType::kF64}, {"b1", DType::kBool}};
  const SafetensorsFile golden = read_safetensors(harness::test_data("golden/npy.safetensors"));
  int cases = 0;
  for (const auto& [name, expected] : golden.tensors) {
    if (!name.ends_with(".values")) continue;
    ++cases;
    const std::string base = name.substr(0, name.rfind('.'));
    const HostArray array = parse_npy(golden.tensors.at(base + ".file").bytes, base);
    EXPECT_TRUE(array.shape == expected.shape) << base << ": " << array.shape.str();
    const auto type = types.find(base.substr(0, 2));
    if (type != types.end()) {
      EXPECT_EQ(array.dtype, type->second) << base;
    }
    const HostArray values = converted(array, DType::kF64);
    for (std::int64_t i = 0; i < expected.shape.size(); ++i) {
      const double a = values.as<double>()[static_cast<std::size_t>(i)];
      const double b = expected.as<double>()[static_cast<std::size_t>(i)];
      EXPECT_TRUE(a == b ? std::signbit(a) == std::signbit(b) : std::isnan(a) && std::isnan(b))
          << base << ": element " << i << " is " << a << ", expected " << b;
    }
  }
  EXPECT_EQ(cases, 67);
}

TEST(Npy, RefusesWhatHoldsNoNumbersInWords) {
  const SafetensorsFile golden = read_safetensors(harness::test_data("golden/npy.safetensors"));
  const std::string numbers =
      "f: expected numbers (a descr of f2, f4, f8, i1 to i8, u1 to u8 or b1), got ";
  for (const auto& [kind, message] : std::map<std::string, std::string>{
           {"complex", numbers + R"(complex numbers, "<c8")"},
           {"text", numbers + R"(text, "<U2")"},
           {"bytes", numbers + R"(text, "|S2")"},
           {"objects", numbers + R"(objects of Python, "|O")"},
           {"records", "f: expected numbers, got records (a structured dtype)"},
           {"raw", numbers + R"(records, "|V8")"},
           {"dates", numbers + R"(dates, "<M8[D]")"},
           {"spans", numbers + R"(spans of time, "<m8[s]")"},
           {"long_double", numbers + R"("<f16")"},
           {"five_axes", "f: expected at most 4 dimensions, got more"}}) {
    const std::vector<std::byte>& file = golden.tensors.at(kind + ".file").bytes;
    EXPECT_EQ(error_of([&] { parse_npy(file, "f"); }), message);
  }
}

std::vector<BadFile> bad_files() {
  const std::string overflows = ": expected at most 9223372036854775807 bytes, at 8 an element";
  const std::string numbers =
      "expected numbers (a descr of f2, f4, f8, i1 to i8, u1 to u8 or b1), got ";
  const std::string good = header_of("'<f4'", "False", "(3,)");
  const auto of_type = [](std::string_view descr) {
    return file_of(header_of(descr, "False", "(3,)"), 12);
  };
  const auto of_order = [](std::string_view order) {
    return file_of(header_of("'<f4'", order, "(3,)"), 12);
  };
  const auto of_shape = [](std::string_view shape) {
    return file_of(header_of("'<f4'", "False", shape), 12);
  };
  const auto at_byte = [](int byte, std::string_view expected, std::string_view got) {
    return fmt::format("expected {} at byte {} of the header, got {}", expected, byte, got);
  };
  return {
      {"empty", {}, "expected 6 bytes of magic, got 0"},
      {"magic_cut", bytes_of("\x93NUMP"), "expected 6 bytes of magic, got 5"},
      {"magic_wrong", bytes_of("\x89PNG\r\n\x1a\n"),
       "expected the magic \"\\x93NUMPY\", got \"\\x89PNG\\x0d\\x0a\""},
      {"version_missing", bytes_of("\x93NUMPY"), "expected 2 bytes of version, got 0"},
      {"version_cut", bytes_of("\x93NUMPY\1"), "expected 2 bytes of version, got 1"},
      {"version_0", file_of(good, 12, 0), "expected version 1.0, 2.0 or 3.0, got 0.0"},
      {"version_4", file_of(good, 12, 4), "expected version 1.0, 2.0 or 3.0, got 4.0"},
      {"version_1_1", file_of(good, 12, 1, 1), "expected version 1.0, 2.0 or 3.0, got 1.1"},
      {"version_255", file_of(good, 12, '\xff', '\xff'),
       "expected version 1.0, 2.0 or 3.0, got 255.255"},
      {"length_cut_1", bytes_of(std::string_view("\x93NUMPY\1\0\0", 9)),
       "expected 2 bytes of header length, got 1"},
      {"length_cut_2", bytes_of(std::string_view("\x93NUMPY\2\0\0\0\0", 11)),
       "expected 4 bytes of header length, got 3"},
      {"header_missing", bytes_of(std::string_view("\x93NUMPY\1\0\x76\0", 10)),
       "expected 118 bytes of header, got 0"},
      {"header_past_the_end", bytes_of(std::string_view("\x93NUMPY\3\0\xff\xff\xff\xff{}", 14)),
       "expected 4294967295 bytes of header, got 2"},
      {"header_empty", file_of(""), at_byte(0, R"("{")", "its end")},
      {"header_no_dict", file_of("[]\n"), at_byte(0, R"("{")", R"("[")")},
      {"header_unclosed", file_of("{"), at_byte(1, "a string", "its end")},
      {"header_unclosed_after_value", file_of("{'descr': '<f4'"),
       at_byte(15, R"("," or "}")", "its end")},
      {"header_no_newline", file_of("{}"), at_byte(2, "a newline", "its end")},
      {"header_text_after_dict", file_of("{} x\n"), at_byte(3, "a newline", R"("x")")},
      {"header_text_after_newline", file_of("{}\n\n"),
       "expected the header's end after its newline, got \"\\x0a\""},
      {"header_zero_byte", file_of(std::string_view("{\0}\n", 4)),
       "expected a string at byte 1 of the header, got \"\\x00\""},
      {"header_tab", file_of("{\t}\n"), "expected a string at byte 1 of the header, got \"\\x09\""},
      {"header_comma_first", file_of("{, }\n"), at_byte(1, "a string", R"(",")")},
      {"header_no_commas", file_of("{'shape': () 'descr': '<f4'}\n"),
       at_byte(13, R"("," or "}")", R"("'")")},
      {"key_bare", file_of("{descr: '<f4'}\n"), at_byte(1, "a string", R"("d")")},
      {"key_unclosed", file_of("{'descr: \n"), "expected the end of the string \"descr: \\x0a\""},
      {"key_without_colon", file_of("{'descr' '<f4'}\n"), at_byte(9, R"(":")", R"("'")")},
      {"key_without_value", file_of("{'descr': }\n"), at_byte(10, "a string", R"("}")")},
      {"key_unknown", file_of("{'strides': ()}\n"),
       R"(expected descr, fortran_order or shape, got "strides")"},
      {"descr_missing", file_of("{'fortran_order': False, 'shape': (3,)}\n", 12),
       "expected a descr, got none"},
      {"fortran_order_missing", file_of("{'descr': '<f4', 'shape': (3,)}\n", 12),
       "expected a fortran_order, got none"},
      {"shape_missing", file_of("{'descr': '<f4', 'fortran_order': False}\n", 12),
       "expected a shape, got none"},
      {"descr_twice", file_of("{'descr': '<f4', 'descr': '<f4'}\n"), "expected one descr, got two"},
      {"fortran_order_twice", file_of("{'fortran_order': False, 'fortran_order': False}\n"),
       "expected one fortran_order, got two"},
      {"shape_twice", file_of("{'shape': (), 'shape': ()}\n"), "expected one shape, got two"},
      {"descr_half_of_nothing", of_type("'<f3'"), numbers + R"("<f3")"},
      {"descr_width_alone", of_type("'4'"), numbers + R"("4")"},
      {"descr_empty", of_type("''"), numbers + R"("")"},
      {"descr_two_orders", of_type("'<>f4'"), numbers + R"("<>f4")"},
      {"descr_bool_of_two_bytes", of_type("'<b2'"), numbers + R"("<b2")"},
      {"descr_complex", of_type("'<c8'"), numbers + R"(complex numbers, "<c8")"},
      {"descr_object", of_type("'|O'"), numbers + R"(objects of Python, "|O")"},
      {"descr_escaped", of_type("'\\x3cf4'"), numbers + "\"\\x5cx3cf4\""},
      {"descr_newline", of_type("'<f4\n'"), numbers + "\"<f4\\x0a\""},
      {"descr_structured", of_type("[('a', '<f4')]"),
       "expected numbers, got records (a structured dtype)"},
      {"descr_none", of_type("None"), at_byte(10, "a string", R"("N")")},
      {"order_number", of_order("0"), at_byte(34, "True or False", R"("0")")},
      {"order_lower_case", of_order("false"), at_byte(34, "True or False", R"("f")")},
      {"order_longer_word", of_order("Falsely"), at_byte(39, R"("," or "}")", R"("l")")},
      {"shape_number", of_shape("3"), at_byte(50, R"("(")", R"("3")")},
      {"shape_list", of_shape("[3]"), at_byte(50, R"("(")", R"("[")")},
      {"shape_no_tuple", of_shape("(3)"), "expected \",\" at byte 52 of the header, got \")\""},
      {"shape_comma_only", of_shape("(,)"), at_byte(51, "an unsigned integer", R"(",")")},
      {"shape_two_commas", of_shape("(3,,)"), at_byte(53, "an unsigned integer", R"(",")")},
      {"shape_unclosed", of_shape("(3, 4"), at_byte(57, "an unsigned integer", R"("}")")},
      {"shape_negative", of_shape("(-3,)"), at_byte(51, "an unsigned integer", R"("-")")},
      {"shape_plus", of_shape("(+3,)"), at_byte(51, "an unsigned integer", R"("+")")},
      {"shape_fraction", of_shape("(3.0,)"), at_byte(52, R"(",")", R"(".")")},
      {"shape_long", of_shape("(3L,)"), at_byte(52, R"(",")", R"("L")")},
      {"shape_rank_5", of_shape("(1, 1, 1, 1, 3)"), "expected at most 4 dimensions, got more"},
      {"shape_leading_zero", of_shape("(03, 16)"), R"(expected a dimension, got "03")"},
      {"shape_two_zeros", of_shape("(00,)"), R"(expected a dimension, got "00")"},
      {"dim_over_64_bits", of_shape("(18446744073709551616,)"),
       R"(expected a dimension of 64 bits, got "18446744073709551616")"},
      {"dim_over_63_bits_after_zero", of_shape("(0, 9223372036854775808)"),
       "shape [0, 9223372036854775808]" + overflows},
      {"size_overflows", of_shape("(4294967296, 4294967296)"),
       "shape [4294967296, 4294967296]" + overflows},
      {"size_overflows_by_width", of_shape("(4611686018427387904,)"),
       "shape [4611686018427387904]" + overflows},
      {"size_overflows_before_zero", of_shape("(4611686018427387904, 4, 0)"),
       "shape [4611686018427387904, 4, 0]" + overflows},
      {"data_missing", file_of(good, 0), "expected 12 bytes for <f4 [3], got 0"},
      {"data_short", file_of(good, 11), "expected 12 bytes for <f4 [3], got 11"},
      {"data_long", file_of(good, 13), "expected 12 bytes for <f4 [3], got 13"},
      {"data_of_an_empty_array", of_shape("(3, 0)"), "expected 0 bytes for <f4 [3, 0], got 12"},
      {"bool_of_two",
       [] {
         auto file = file_of(header_of("'|b1'", "False", "(2,)"), 2);
         file.back() = std::byte{2};
         return file;
       }(),
       "expected a bool of 0 or 1 at element 1, got 2"},
  };
}

TEST(Npy, RefusesEachBadFileInItsOwnWords) {
  fuzz::expect_refusals(bad_files(), parse_npy);
}

TEST(Npy, RefusesEveryTruncationAndEveryTail) {
  for (const HostArray& sample : samples()) {
    Bytes bytes = serialize_npy(sample);
    for (std::size_t size = 0; size < bytes.size(); ++size) {
      EXPECT_THROW(parse_npy(std::span(bytes).first(size), "f"), Error) << size;
    }
    bytes.push_back(std::byte{0});
    EXPECT_THROW(parse_npy(bytes, "f"), Error);
  }
}

bool parses(const Bytes& bytes) {
  return fuzz::parses(bytes, parse_npy, serialize_npy);
}

TEST(Npy, SurvivesEveryBitFlip) {
  for (const HostArray& sample : samples()) {
    Bytes bytes = serialize_npy(sample);
    for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
      bytes[bit / 8] ^= std::byte(1 << (bit % 8));
      parses(bytes);
      bytes[bit / 8] ^= std::byte(1 << (bit % 8));
    }
  }
}

// Every other time the header's length is made to fit again, so that edits get past the first
// check.
Bytes mutated(Bytes bytes, std::size_t data, fuzz::Mutator& mutator) {
  mutator.edit(bytes);
  if (mutator.below(2) == 0 && bytes.size() >= 10 + data) {
    const auto length = static_cast<std::uint16_t>(bytes.size() - 10 - data);
    std::memcpy(bytes.data() + 8, &length, sizeof(length));
  }
  return bytes;
}

TEST(Npy, SurvivesFuzzing) {
  const std::vector<HostArray> seeds = samples();
  fuzz::Mutator mutator(
      2,
      "{ } ( ) [ , : ' \" \\ None True False -1 0 3 1.5 1e9 9223372036854775807 "
      "9223372036854775808 18446744073709551615 18446744073709551616 '<f8' '|b1' '>f4' '<f2' '>i2' "
      "'|i1' '<u8' 'descr': 'fortran_order': 'shape':( \xff",
      "({9");
  fuzz::expect_survival([&](std::size_t i) {
    const HostArray& seed = seeds[i % seeds.size()];
    return parses(mutated(serialize_npy(seed), seed.bytes.size(), mutator));
  });
}

}  // namespace
}  // namespace sidechannel
