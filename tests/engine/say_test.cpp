#include "engine/say.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "tests/harness/program.h"

namespace sidechannel {
namespace {

TEST(Say, NamesStayOnOneLine) {
  EXPECT_EQ(one_line(""), "");
  EXPECT_EQ(one_line("runs/a b \"c\"\\"), "runs/a b \"c\"\\");
  EXPECT_EQ(one_line("a\nb\tc\r\x1b[31m\x7f"), "a\\x0ab\\x09c\\x0d\\x1b[31m\\x7f");
  EXPECT_EQ(one_line(std::string("a\0b", 3)), "a\\x00b");
  // Text of any language stays, what is not UTF-8 does not.
  EXPECT_EQ(one_line("Zürich 東京 \U0001f600"), "Zürich 東京 \U0001f600");
  EXPECT_EQ(one_line("a\xff"
                     "b"),
            "a\\xffb");
  EXPECT_EQ(one_line("\xc3"), "\\xc3");  // cut short
  EXPECT_EQ(one_line("\xe6\x9d"), "\\xe6\\x9d");
  EXPECT_EQ(one_line("\xc0\x8a"), "\\xc0\\x8a");           // a newline, longer than need be
  EXPECT_EQ(one_line("\xed\xa0\x80"), "\\xed\\xa0\\x80");  // a surrogate
  EXPECT_EQ(one_line("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");  // beyond Unicode
  EXPECT_EQ(one_line("\xc2\x9b"
                     "1m"),
            "\\xc2\\x9b1m");  // a terminal's CSI in one byte
  EXPECT_EQ(one_line("a\u2028b"), "a\\xe2\\x80\\xa8b");
  for (const int last : {0xaa, 0xab, 0xac, 0xad, 0xae}) {  // U+202A to U+202E: directions
    EXPECT_EQ(one_line(fmt::format("a\xe2\x80{}b", static_cast<char>(last))),
              fmt::format("a\\xe2\\x80\\x{:02x}b", last));
  }
  for (const int last : {0xa6, 0xa7, 0xa8, 0xa9}) {  // U+2066 to U+2069
    EXPECT_EQ(one_line(fmt::format("a\xe2\x81{}b", static_cast<char>(last))),
              fmt::format("a\\xe2\\x81\\x{:02x}b", last));
  }
  EXPECT_EQ(one_line("a\u202fb\u2065c\u206a"), "a\u202fb\u2065c\u206a");
}

TEST(Say, AThreadSpeaksIntoItsFile) {
  const harness::TemporaryFolder folder;
  std::ofstream(folder / "0") << "before\n";
  std::vector<std::thread> threads;
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      const SpeaksInto file(folder / std::to_string(i));
      for (int line = 0; line < 100; ++line) line % 2 == 0 ? say("{}\n", i) : note("{}!\n", i);
    });
  }
  say("out\n");
  note("err\n");
  for (std::thread& thread : threads) thread.join();
  {
    const SpeaksInto nowhere(folder / "no/such/folder");
    say("still here\n");
  }
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "out\nstill here\n");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "err\n");
  for (int i = 0; i < 4; ++i) {
    std::string expected = i == 0 ? "before\n" : "";
    for (int line = 0; line < 50; ++line) expected += fmt::format("{}\n{}!\n", i, i);
    EXPECT_EQ(harness::content_of(folder / std::to_string(i)), expected);
  }
}

TEST(Say, OnlyTheFormatBreaksLines) {
  const std::string name = "a\nb";
  EXPECT_EQ(in_lines("{}: {} of {:.1f}\n", name, 3, 0.25), "a\\x0ab: 3 of 0.2\n");
  EXPECT_EQ(in_lines("{}{:>5}|\n", name.c_str(), std::string_view("\t")), "a\\x0ab \\x09|\n");
}

}  // namespace
}  // namespace sidechannel
