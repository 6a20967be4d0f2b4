// Cells of the ECP5 that Yosys has no simulation model for, as far as the accelerator's netlist uses them.

module MULT18X18D #(
  parameter REG_INPUTA_CLK = "NONE", REG_INPUTB_CLK = "NONE", REG_INPUTC_CLK = "NONE", REG_PIPELINE_CLK = "NONE", REG_OUTPUT_CLK = "NONE",
  parameter REG_INPUTA_CE = "CE0", REG_INPUTB_CE = "CE0", REG_OUTPUT_CE = "CE0",
  parameter REG_INPUTA_RST = "RST0", REG_INPUTB_RST = "RST0", REG_OUTPUT_RST = "RST0"
) (
  input CLK0, CE0, RST0,
  input A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0,
  input B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0,
  input C17, C16, C15, C14, C13, C12, C11, C10, C9, C8, C7, C6, C5, C4, C3, C2, C1, C0,
  input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB,
  output P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18,
  output P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0
);
  wire [17:0] a = {A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0};
  wire [17:0] b = {B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0};
  reg [17:0] a_later = 0, b_later = 0;
  reg [35:0] product_later = 0;
  wire [17:0] a_used = REG_INPUTA_CLK == "NONE" ? a : a_later, b_used = REG_INPUTB_CLK == "NONE" ? b : b_later;
  wire signed [36:0] left = {{19{SIGNEDA & a_used[17]}}, a_used}, right = {{19{SIGNEDB & b_used[17]}}, b_used};
  wire signed [36:0] product = left * right;
  always @(posedge CLK0) begin
    a_later <= a;
    b_later <= b;
    product_later <= product[35:0];
    if (!CE0 || RST0) $fatal(1, "MULT18X18D: enables and resets of its registers have no model");
  end
  assign {P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18,
          P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0} = REG_OUTPUT_CLK == "NONE" ? product[35:0] : product_later;
  // A netlist that uses the block's other registers must not pass with this model.
  generate
    if ((REG_INPUTA_CLK != "NONE" && REG_INPUTA_CLK != "CLK0") || (REG_INPUTB_CLK != "NONE" && REG_INPUTB_CLK != "CLK0")
        || (REG_OUTPUT_CLK != "NONE" && REG_OUTPUT_CLK != "CLK0") || REG_INPUTC_CLK != "NONE" || REG_PIPELINE_CLK != "NONE")
      registers_of_MULT18X18D_have_no_model unknown ();
  endgenerate
endmodule

// 2048 bytes of nine bits behind two ports. Widths of 1, 2 and 4 take parts of eight bits; 36 bits take both ports' data pins.
module DP16KD #(
  parameter DATA_WIDTH_A = 18, DATA_WIDTH_B = 18, REGMODE_A = "NOREG", REGMODE_B = "NOREG", RESETMODE = "SYNC",
  parameter ASYNC_RESET_RELEASE = "SYNC", CSDECODE_A = "0b000", CSDECODE_B = "0b000", WRITEMODE_A = "NORMAL", WRITEMODE_B = "NORMAL",
  parameter CLKAMUX = "CLKA", CLKBMUX = "CLKB", GSR = "AUTO"
) (
  input DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0,
  input ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0,
  input CEA, OCEA, CLKA, WEA, RSTA, CSA2, CSA1, CSA0,
  output DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1, DOA0,
  input DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0,
  input ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0,
  input CEB, OCEB, CLKB, WEB, RSTB, CSB2, CSB1, CSB0,
  output DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1, DOB0
);
  reg [8:0] memory [0:2047];
  integer i;
  initial for (i = 0; i < 2048; i = i + 1) memory[i] = 0;

  wire [13:0] ada = {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0};
  wire [13:0] adb = {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0};
  wire [17:0] dia = {DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0};
  wire [17:0] dib = {DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0};
  wire [35:0] di_a = {dib, dia};
  wire [10:0] row_a = DATA_WIDTH_A == 36 ? {ada[13:5], 2'b0} : DATA_WIDTH_A == 18 ? {ada[13:4], 1'b0} : ada[13:3];
  wire [10:0] row_b = DATA_WIDTH_B == 36 ? {adb[13:5], 2'b0} : DATA_WIDTH_B == 18 ? {adb[13:4], 1'b0} : adb[13:3];

  function [35:0] fetch(input [10:0] row, input [2:0] bits, input integer width);
    case (width)
      36: fetch = {memory[row + 3], memory[row + 2], memory[row + 1], memory[row]};
      18: fetch = {18'b0, memory[row + 1], memory[row]};
      9: fetch = {27'b0, memory[row]};
      4: fetch = {32'b0, bits[2] ? memory[row][7:4] : memory[row][3:0]};
      2: fetch = {34'b0, memory[row][{bits[2:1], 1'b0} +: 2]};
      default: fetch = {35'b0, memory[row][bits]};
    endcase
  endfunction

  reg [35:0] q_a = 0, q_b = 0, later_a = 0, later_b = 0;
  wire [35:0] out_a = REGMODE_A == "OUTREG" ? later_a : q_a, out_b = REGMODE_B == "OUTREG" ? later_b : q_b;
  assign {DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1, DOA0} =
    DATA_WIDTH_B == 36 ? out_b[17:0] : out_a[17:0];
  assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1, DOB0} =
    DATA_WIDTH_B == 36 ? out_b[35:18] : out_b[17:0];

  // One clock, as in the accelerator: CLKB only has to be the same.
  always @(posedge CLKA) begin
    if (OCEA) later_a <= q_a;
    if (OCEB) later_b <= q_b;
    if (RSTA) q_a <= 0;
    else if (CEA && (!WEA || WRITEMODE_A == "READBEFOREWRITE")) q_a <= fetch(row_a, ada[2:0], DATA_WIDTH_A);
    if (RSTB) q_b <= 0;
    else if (CEB && (!WEB || WRITEMODE_B == "READBEFOREWRITE")) q_b <= fetch(row_b, adb[2:0], DATA_WIDTH_B);
    if (CEA && WEA) begin
      case (DATA_WIDTH_A)
        36: for (i = 0; i < 4; i = i + 1) if (ada[i]) memory[row_a + i[10:0]] <= di_a[9 * i +: 9];
        18: for (i = 0; i < 2; i = i + 1) if (ada[i]) memory[row_a + i[10:0]] <= di_a[9 * i +: 9];
        9: memory[row_a] <= dia[8:0];
        4: if (ada[2]) memory[row_a][7:4] <= dia[3:0]; else memory[row_a][3:0] <= dia[3:0];
        2: memory[row_a][{ada[2:1], 1'b0} +: 2] <= dia[1:0];
        default: memory[row_a][ada[2:0]] <= dia[0];
      endcase
    end
  end
  generate
    if ((REGMODE_A != "NOREG" && REGMODE_A != "OUTREG") || (REGMODE_B != "NOREG" && REGMODE_B != "OUTREG") || CLKAMUX != "CLKA" || CLKBMUX != "CLKB"
        || WRITEMODE_A == "WRITETHROUGH" || WRITEMODE_B == "WRITETHROUGH") a_mode_of_DP16KD_has_no_model unknown ();
  endgenerate
  always @(posedge CLKA) begin
    if (CEB && WEB) $fatal(1, "DP16KD: writes of port B have no model");
    if ((RESETMODE != "SYNC" || REGMODE_B == "OUTREG") && (RSTA || RSTB)) $fatal(1, "DP16KD: this reset has no model");
  end
endmodule
